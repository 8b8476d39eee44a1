"""Text from elsewhere controls no terminal, and W&B looks nothing up for it; plug-ins that fail say so in one line."""

import importlib.metadata
import json

import pytest
from synthetic_run import a_row, a_study, synthetic_run

from mergekit_diff import names, plugins
from mergekit_diff.experiments import terminal
from mergekit_diff.experiments.cli import main
from mergekit_diff.experiments.results import kept
from mergekit_diff.experiments.results.folder import RunFolder
from mergekit_diff.experiments.results.run import Run
from mergekit_diff.experiments.study.loading import build
from mergekit_diff.experiments.terminal import complain, one_line, say, show_table, visible
from mergekit_diff.experiments.tracking.cell_log import CellLog

ESCAPES = {
    "title": "\x1b]0;title\x07",
    "colour": "\x1b[31mred",
    "clipboard": "\x1b]52;c;cm0=\x1b\\",
    "C1": "\x9b31mred",
    "back": "good\b\b\b\bbad",
    "return": "good\rbad",
    "right to left": "\u202egnp.exe",
    "isolate": "\u2066x\u2069",
    "byte that is not UTF-8": "\udcff",
    "delete": "\x7f",
}


@pytest.fixture(params=ESCAPES.values(), ids=ESCAPES)
def escape(request):
    return request.param


def tame(said):
    return not terminal.CONTROLS.search(said)


def test_control_characters_are_shown_not_sent(escape, capsys):
    say(f"a {escape}")
    complain(escape)
    show_table(escape, [["cell", escape], [escape, escape]])
    said = capsys.readouterr()
    assert tame(said.out) and tame(said.err)
    assert all(f"{ord(one):x}" in visible(escape) or one in "\b\r" for one in terminal.CONTROLS.findall(escape))


def test_text_of_any_script_stays_as_it_is(capsys):
    text = "日本語 עברית emoji 👩\u200d👧 café\tx\ny"
    assert visible(text) == text and one_line(text) == " ".join(text.split())


WRONG = (
    ["run", "{}"],
    ["run", "quickstart", "{}=3"],
    ["run", "quickstart", "--{}"],
    ["generate", "x", "strategy={}"],
    ["generate", "x", "strategy={{name: '{}'}}"],
    ["generate", "x", "model={}"],
    ["list", "{}"],
    ["report", "{}"],
    ["{}"],
)


@pytest.mark.parametrize("words", WRONG)
def test_a_message_about_wrong_input_is_one_line_without_controls(words, escape, capsys):
    try:
        code = main([word.format(escape) for word in words])
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr()
    assert code == 2 and len(said.err.splitlines()) == 1 and tame(said.err) and said.out == ""


def test_prompts_that_cannot_be_written_are_refused_before_the_run():
    with pytest.raises(ValueError, match="prompts: expected Unicode"):
        build({"prompts": ["a \udcff"]})


def test_kept_rows_of_somebody_else_print_no_controls(escape, tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    folder.write_config(a_study(question="x", primary={"metric": "psnr", "better": "higher"}), ["run"])
    rows = [a_row(cell="base", role="base"), a_row(job="b", cell="x", notes=["x"], metrics={"psnr": 1.0}, against="base")]
    there = kept.keep(folder.path, rows, tmp_path / "kept")
    spoiled = [row.to_json() | {"cell": f"{row.cell}{escape}", "notes": [escape]} for row in rows]
    kept.write_atomically(there / kept.ROWS, kept.gzip.compress("\n".join(map(json.dumps, spoiled)).encode()))
    assert main(["report", str(there)]) == 0
    said = capsys.readouterr()
    assert tame(said.out) and tame(said.err) and "psnr" in said.out.lower()


@pytest.mark.usefixtures("registry")
def test_names_of_a_plug_in_print_no_controls(registry, capsys):
    from dataclasses import dataclass

    from mergekit_diff import RatioSchedule

    @registry.register("\x1b]0;title\x07")
    @dataclass(frozen=True)
    class Mine(RatioSchedule):
        """\x1b[31mred."""

        word: str = "\x1b[31m"

        def __call__(self, ctx):
            return 0.5

    assert main(["list", "ratio"]) == 0
    said = capsys.readouterr().out
    assert tame(said) and "title" in said and "red." in said


REFERENCES = ("wandb-artifact://https://elsewhere.test/a/b:v0", "wandb-artifact://_id/QXJ0")


@pytest.mark.parametrize("text", REFERENCES)
def test_wandb_looks_nothing_up_for_a_study(text, tmp_path, monkeypatch):
    import wandb
    from wandb.util import _is_artifact_representation, check_dict_contains_nested_artifact

    folder = synthetic_run(tmp_path / "run", prompts=1)
    raw = {"question": text, "hypothesis": text, "prompts": [text], "out": text, "wandb": {"project": text}}
    folder.write_config(build(raw).record() | {"extra": {"_type": "artifactVersion", "id": "x"}, "metrics": ["psnr"]}, [text])
    run = Run.read(folder.path)
    config = CellLog(run, "base").config()
    assert text in config["question"]  # or nothing is tested
    assert not check_dict_contains_nested_artifact(config)
    assert not [value for value in config.values() if _is_artifact_representation(value)]
    monkeypatch.setattr(wandb.Api, "__init__", None)


def plug_ins(monkeypatch, tmp_path, **sources):
    """Install modules as plug-ins before the built-in ones; the warnings that loading them gives."""
    values = {"good": "mergekit_diff.schedules"}
    for name, source in sources.items():
        (tmp_path / f"their_{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    values = {name: f"their_{name}" for name in sources} | values
    return entries(monkeypatch, values)


def entries(monkeypatch, values):
    found = [importlib.metadata.EntryPoint(name, value, plugins.GROUP) for name, value in values.items()]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found)
    plugins.load_plugins.cache_clear()
    with pytest.warns(UserWarning) as caught:
        assert "constant" in names("ratio") and "retom" in names("strategy")
    plugins.load_plugins.cache_clear()
    return [str(one.message) for one in caught]


FAILING = {
    "exits": "import sys\nsys.exit('bye')\n",
    "exits_silently": "raise SystemExit\n",
    "many_lines": "raise RuntimeError('one\\ntwo\\nthree')\n",
    "recursion": "def f(): f()\nf()\n",
    "no_python": "x = = 3\n",
    "own_error": "class E(Exception):\n    def __str__(self): raise self\nraise E\n",
    "asserts": "assert False\n",
}


def test_plug_ins_that_fail_in_whatever_way_are_named_in_a_line_and_hide_no_other(registry, monkeypatch, tmp_path):
    said = plug_ins(monkeypatch, tmp_path, **FAILING)
    assert [line.split("'")[1] for line in said] == list(FAILING)
    assert not [line for line in said if "\n" in line] and all("is left out" in line for line in said)


@pytest.mark.parametrize("value", ["", "???", ":", "a.", "..", "-x", "mergekit_diff.schedules:nothing", "mergekit diff"])
def test_an_entry_point_that_names_nothing_hides_no_other(value, registry, monkeypatch):
    (said,) = entries(monkeypatch, {"odd": value, "good": "mergekit_diff.schedules"})
    assert "plug-in 'odd'" in said and "\n" not in said
