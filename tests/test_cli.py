"""The command line: instant help, and every bad input in one line with exit code 2, before anything heavy or half-written."""

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest

from mergekit_diff.experiments import extra
from mergekit_diff.experiments.cli import BROKEN_PIPE, KINDS, main
from mergekit_diff.experiments.files import write_atomically
from mergekit_diff.experiments.listing import STUDY, kinds

HEAVY = ("diffusers", "transformers", "lightning")


def loaded_after(*words: str) -> tuple[int, set[str]]:
    code = (
        "import json, sys\nfrom mergekit_diff.experiments.cli import main\n"
        "try: code = main(sys.argv[1:])\nexcept SystemExit as end: code = end.code or 0\n"
        "print(); print(json.dumps([code, list(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    return code, set(modules)


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["list", "--help"], ["--version"]])
def test_help_imports_no_torch(words):
    code, modules = loaded_after(*words)
    assert code == 0
    assert not modules & {"torch", "omegaconf", *HEAVY}


def test_a_wrong_ratio_is_found_before_anything_heavy_is_loaded():
    code, modules = loaded_after("run", "quickstart", "sweep={}", "strategy=retom", "strategy.ratio=1.5")
    assert code == 2
    assert not modules & set(HEAVY)


BAD = {
    "study": (["run", "quickstrat"], "quickstart"),
    "key": (["run", "quickstart", "prmpts=emoji-8"], "prompts"),
    "nested key": (["run", "quickstart", "merging.refesh=2"], "refresh"),
    "no equals sign": (["run", "quickstart", "seeds"], "expected key=value, got 'seeds'"),
    "strategy": (["generate", "x", "strategy=retmo"], "retom"),
    "metric of a strategy": (["generate", "x", "strategy.metric=cosin"], "cosine"),
    "schedule": (["generate", "x", "strategy.ratio={name: liner}"], "linear"),
    "setting of a strategy": (["generate", "x", "strategy.raito=0.5"], "ratio"),
    "ratio of 1": (["generate", "x", "strategy.ratio=1"], "ratio"),
    "negative ratio": (["generate", "x", "strategy.ratio=-0.1"], "ratio"),
    "empty window": (["generate", "x", "strategy.window=0"], "window"),
    "negative window": (["generate", "x", "strategy.window=[-2, 2]"], "window"),
    "window of three axes": (["generate", "x", "strategy.window=[2, 2, 2]"], "axes"),
    "role": (["generate", "x", "merging.roles=[self_atention]"], "self_attention"),
    "refresh of 0": (["generate", "x", "merging.refresh=0"], "refresh"),
    "metric": (["run", "quickstart", "metrics=[pnsr]"], "psnr"),
    "metric beside a primary": (["run", "cache-period", "metrics=[pnsr]"], "psnr"),
    "sweep in a word": (["run", "quickstart", "sweep=grid"], "mapping"),
    "mapping over a sweep": (["run", "cache-period", "merging={refresh: 5}"], "sweeps merging.refresh"),
    "more random cells than there are": (
        ["run", "quickstart", "sweep_method=random", "sweep_count=9", "sweep={strategy.ratio: {values: [0.25, 0.5]}}"],
        "2 different cells",
    ),
    "prompt twice": (["run", "quickstart", "prompts=[a flat cat, a flat cat]"], "'a flat cat' is listed twice"),
    "wandb sweep of an unknown key": (["run", "quickstart", "sweep={merging.refesh: {values: [1]}}", "--wandb-sweep"], "refresh"),
    "no steps": (["run", "quickstart", "steps=0"], "steps"),
    "steps in words": (["run", "quickstart", "steps=many"], "steps: expected a whole number, got 'many'"),
    "mapping for a list": (["run", "quickstart", "metrics={a: 1}"], "metrics: expected a list, got {'a': 1}"),
    "number for a mapping": (["run", "quickstart", "merging=3"], "merging: expected a mapping, got 3"),
    "unset reference": (["run", "quickstart", "question=${nothing}"], "question"),
    "scheduler": (["run", "quickstart", "scheduler=dimm"], "ddim"),
    "prompt list": (["run", "quickstart", "prompts=emoji-9"], "emoji-8"),
    "empty prompt file": (["run", "quickstart", "prompts=empty.txt"], "empty.txt"),
    "model": (["run", "quickstart", "model=emojy"], "emoji"),
    "folder without a model": (["run", "quickstart", "model=."], "model_index.json"),
    "corrupt model folder": (["run", "quickstart", "model=corrupt"], "expected safetensors in corrupt"),
    "output under a file": (["run", "quickstart", "model=whole", "out=empty.txt/run"], "empty.txt"),
    "same cell twice": (["run", "quickstart", "sweep={strategy.ratio: {values: [0.5, 0.5]}}"], "same"),
    "control without a counterpart": (
        [
            *("run", "quickstart", "sweep_method=random", "sweep_count=6", "control={merging.refresh: 1}"),
            "sweep={merging.refresh: {values: [1, 2]}, strategy.ratio: {min: 0.2, max: 0.8}}",
        ],
        "counterpart",
    ),
    "no values": (["run", "quickstart", "sweep={strategy.ratio: [0.5]}"], "values"),
    "swept key": (["run", "quickstart", "sweep={wandb.mode: {values: [offline]}}"], "strategy"),
    "overridden sweep": (["run", "quickstart", "strategy.ratio=0.3"], "sweep"),
    "control that is no cell": (["run", "quickstart", "control={strategy.ratio: 0.9}"], "control"),
    "no devices": (["run", "quickstart", "devices=0"], "devices"),
    "devices in words": (
        ["run", "quickstart", "devices=many"],
        "devices: expected a whole number of at least 1, or auto; got 'many'",
    ),
    "primary that is not measured": (["run", "quickstart", "metrics=[psnr]", "primary={metric: kid}"], "psnr"),
    "margin of a ratio": (["run", "quickstart", "primary={metric: feature, margin: 0.9}"], "a factor above 1"),
    "margin of a difference": (["run", "quickstart", "primary={metric: psnr, margin: 0}"], "a number above 0"),
    "margin without end": (["run", "quickstart", "primary={metric: psnr, margin: .inf}"], "got inf"),
    "margin in words": (["run", "quickstart", "primary={metric: psnr, margin: small}"], "expected a number, got 'small'"),
    "margin of false": (["run", "quickstart", "primary={metric: feature, margin: true}"], "got"),
    "control in a word": (["run", "quickstart", "control=bsae"], "or 'base', got 'bsae'"),
    "fidelity against the base": (
        ["run", "quickstart", "metrics=[psnr, text]", "primary={metric: psnr}", "control=base"],
        "a primary metric of quality with control 'base' (text, clip, kid, fid), got psnr",
    ),
    "base without a primary": (["run", "quickstart", "control=base"], "got none"),
    "repeat in words": (["run", "quickstart", "repeat=often"], "repeat: expected true or false, got 'often'"),
    "caption of no emoji": (["run", "quickstart", "metrics=[text]", "prompts=[a spaceship at dawn]"], "caption"),
    "probe": (["run", "quickstart", "probes=[stalenes]"], "staleness"),
    "study file that is no mapping": (["run", "list.yaml"], "mapping"),
    "kind": (["list", "stratgy"], "strategy"),
    "command": (["rnu"], "run"),
    "option": (["run", "quickstart", "--frehs"], "--frehs"),
    "behind an option": (["run", "quickstart", "--fresh", "setps=3"], "steps"),
    "no run folder": (["report", "."], "config.yaml"),
}


@pytest.mark.parametrize(("words", "hint"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_exit_code_2(words, hint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    for name, weights in (("corrupt", b"not safetensors"), ("whole", (2).to_bytes(8, "little") + b"{}")):
        (tmp_path / name / "unet").mkdir(parents=True)
        (tmp_path / name / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
        (tmp_path / name / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(weights)
    before = sorted(tmp_path.rglob("*"))
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr()
    assert code == 2
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("mergekit-diff: error: ")
    assert hint in said.err
    assert said.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_list_names_everything(capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("retom", "ratio = ", "cosine", "quickstart", "arXiv 2507.12771"))


def test_help_names_every_kind_that_can_be_listed(capsys):
    assert set(KINDS) == set(kinds())
    with pytest.raises(SystemExit):
        main(["list", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert all(kind in said.partition("KIND ")[2] for kind in KINDS)


def test_listing_into_a_closed_pipe_ends_quietly_as_other_programs_do():
    reader, writer = os.pipe()
    code = "from mergekit_diff.experiments.cli import main; raise SystemExit(main(['list']))"
    program = subprocess.Popen([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    os.close(reader)  # as `head` closes it
    said = program.communicate(timeout=300)[1]
    assert (program.returncode, said) == (BROKEN_PIPE, "")


NEEDED = ["torch>=2.6", 'omegaconf<2.5,>=2.4; extra == "experiments"', 'wandb>=0.31; extra == "experiments"',
          'resvg-py>=0.3; extra == "train"', 'rich; extra == "experiments"']  # fmt: skip


@pytest.fixture
def core_only(monkeypatch):
    """As if the extra were not installed, but for rich."""

    def version(name):
        if name in ("omegaconf", "wandb", "resvg-py"):
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(extra, "requires", lambda _: NEEDED)
    monkeypatch.setattr(extra, "version", version)


@pytest.mark.parametrize(
    "words", [["run", "quickstart"], ["generate", "an apple"], ["bench"], ["report", "runs"], ["list"], ["list", "study"]]
)
def test_a_command_without_its_packages_says_how_to_get_them(words, core_only, capsys):
    assert main(words) == 2
    command = " ".join(words) if words[0] == "list" else words[0]
    expected = f"{command} needs the extra: pip install 'mergekit-diff[experiments]' (missing: omegaconf, wandb)"
    assert capsys.readouterr().err == f"mergekit-diff: error: {expected}\n"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != STUDY])
def test_parts_are_listed_without_the_packages_of_experiments(kind, core_only, capsys):
    assert main(["list", kind]) == 0
    assert capsys.readouterr().out.startswith(kind.upper())


def test_an_error_of_the_disk_names_its_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space") as found:
        write_atomically(tmp_path / "a.json", b"{}")
    assert found.value.filename == str(tmp_path / "a.json")


def test_an_error_that_names_no_file_is_not_blamed_on_one(monkeypatch, capsys):
    def fails(_):
        raise OSError("the weights cannot be read")

    monkeypatch.setattr("mergekit_diff.experiments.listing.listing", fails)
    assert main(["list"]) == 1
    assert capsys.readouterr().err == "mergekit-diff: error: the weights cannot be read\n"
