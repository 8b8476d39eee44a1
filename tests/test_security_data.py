"""YAML and JSON from elsewhere are data of bounded size: no types, no bombs, no pipes, nothing lost."""

import gzip
import os

import pytest
from synthetic_run import a_row

from mergekit_diff.experiments import reading
from mergekit_diff.experiments.cli import main
from mergekit_diff.experiments.reading import numbered, parse_json, parse_yaml, read_bytes, read_json, read_lines
from mergekit_diff.experiments.results import kept
from mergekit_diff.experiments.results.folder import RunFolder
from mergekit_diff.experiments.study.loading import build, load_study
from mergekit_diff.experiments.tasks import PICTURE, VIDEO, Call
from mergekit_diff.experiments.tracking.sweep_config import sweep_config

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{n}: &{n} [{', '.join([f'*{o}'] * 9)}]\n" for o, n in zip("abcdefgh", "bcdefghi", strict=True)
)
REFUSED = {
    "tag that runs code": ("!!python/object/apply:os.system [touch ran]", "tag"),
    "tag of a type": ("{question: !!set {a, b}}", "tag"),
    "own tag": ("{question: !mine x}", "tag"),
    "alias": ("{a: &x [1], b: *x}", "alias *x"),
    "alias bomb": (BOMB, "alias *a"),
    "alias to itself": ("&x [*x]", "alias *x"),
    "key twice": ("{steps: 3, steps: 30}", "the key steps twice"),
    "nested without end": ("[" * 100_000, "nested"),
    "number without end": ("9" * 5000, "digits"),
    "two documents": ("--- {}\n--- {}\n", "single document"),
    "byte 0": ("a\0b", "#x0000"),
}


@pytest.mark.parametrize(("text", "hint"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("where", ["study", "override", "config of a run"])
def test_yaml_that_is_more_than_data_is_refused(text, hint, where, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    words = {
        "study": ["run", "config.yaml"],
        "override": ["run", "quickstart", f"control={text}"],
        "config of a run": ["report", "."],
    }
    assert main(words[where]) == 2
    said = capsys.readouterr().err
    assert hint in said and len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "config.yaml"]


def test_yaml_without_end_is_not_read(tmp_path):
    with pytest.raises(ValueError, match="expected at most 4194304 characters"):
        parse_yaml(" " * (reading.MOST_YAML + 1), "x")
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match=r"expected at most 4194304 bytes in .*huge.yaml"):
        load_study(str(tmp_path / "huge.yaml"))
    with pytest.raises(ValueError, match="expected at most"):
        build({"prompts": str(tmp_path / "huge.yaml")})


def test_a_study_cannot_read_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("A_SECRET", "swordfish")
    for value in ("${oc.env:A_SECRET}", "${model}", "a ${oc.decode:3}"):
        for raw in ({"question": value}, {"strategy": {"name": value}}, {"metrics": [value]}):
            with pytest.raises(ValueError, match=r"expected text without \$\{\.\.\.\}"):
                build(raw)


def test_json_that_is_too_deep_too_long_or_no_number_is_refused():
    for text in ("[" * 100_000, '{"a":' * 100_000, "9" * 5000, b"\xff", ""):
        with pytest.raises(ValueError):
            parse_json(text)
    with pytest.raises(ValueError, match="NaN"):
        parse_json("[NaN]", strict=True)


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    for path in (tmp_path / "pipe", tmp_path):
        for read in (read_bytes, read_json, lambda path: list(read_lines(path))):
            with pytest.raises(ValueError, match="not a regular one"):
                read(path)


def test_a_line_without_end_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LINE", 100)
    (tmp_path / "lines").write_bytes(b"x\n" + b"y" * 200)
    with pytest.raises(ValueError, match="line 2: expected at most 100 bytes"):
        list(read_lines(tmp_path / "lines"))
    monkeypatch.setattr(reading, "LINES", 300)
    with pytest.raises(ValueError, match="and 300 in all"), (tmp_path / "many").open("w+b") as file:
        file.write(b"x\n" * 151)
        file.seek(0)
        list(numbered(file, tmp_path / "many"))


@pytest.fixture
def finding(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.write_config({"prompts": ["p"], "metrics": []}, ["run"])
    return kept.keep(run.path, [a_row()], tmp_path / "kept")


@pytest.mark.parametrize("spoil", [lambda data: data[:-9], lambda data: b"\x80\x04" + data, lambda data: data[:12] + b"\xff" * 9])
def test_kept_rows_that_are_cut_off_or_no_gzip_are_refused(finding, spoil):
    path = finding / kept.ROWS
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match="expected lines compressed by gzip"):
        kept.read_rows(finding)


def test_kept_rows_that_unpack_without_end_are_refused(finding, monkeypatch):
    monkeypatch.setattr(reading, "LINES", 2**20)
    (finding / kept.ROWS).write_bytes(gzip.compress(a_row().line() * 2**13))  # kilobytes that become megabytes
    with pytest.raises(ValueError, match="1048576 in all"):
        kept.read_rows(finding)


@pytest.mark.parametrize("text", ['{"guidance": "prompt"}', '{"arguments": 3}', "[" * 99_999, "[]", '{"x": 1}', "\x80"])
def test_a_call_record_that_is_none_is_refused(text, tmp_path):
    (tmp_path / "call.json").write_text(text)
    with pytest.raises(ValueError, match=r"call\.json"):
        Call.read(tmp_path)


def test_a_file_that_is_not_of_its_ending_s_format_reaches_no_other_decoder(tmp_path):
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(ran) print\n"
    (tmp_path / "a.png").write_bytes(postscript)
    for task in (PICTURE, VIDEO):
        with pytest.raises(OSError, match="cannot identify image file"):
            task.read(tmp_path / "a.png")


@pytest.mark.parametrize("value", ["a: b: c", "[", "*x", "[" * 9999, "null"])
def test_swept_text_that_is_no_plain_yaml_goes_to_wandb_quoted(value):
    study = build({"sweep": {"scheduler": {"values": [value]}}})
    assert parse_yaml(sweep_config(study, ["x"]), "x")["parameters"]["scheduler"]["values"][0].startswith('"')
