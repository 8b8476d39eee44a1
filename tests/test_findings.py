"""Kept rows give the tables and the verdict of their run, without its images."""

import gzip
import json
import math
import shutil
from functools import cache
from pathlib import Path

import pytest
from synthetic_run import a_row, a_study

import mergekit_diff.experiments
from mergekit_diff.experiments.cli import main
from mergekit_diff.experiments.results import kept, tables
from mergekit_diff.experiments.results.answer import answer
from mergekit_diff.experiments.results.folder import RunFolder
from mergekit_diff.experiments.results.in_common import in_common
from mergekit_diff.experiments.results.row import Row
from mergekit_diff.experiments.results.run import Run

FINDINGS = Path(mergekit_diff.experiments.__path__[0]) / "findings"
KEPT = sorted(path.parent.name for path in FINDINGS.glob(f"*/{kept.ROWS}"))
VERDICTS = json.loads((Path(__file__).parent / "data" / "verdicts.json").read_text())
read = cache(lambda name: Run.read(FINDINGS / name))
"""Every finding is read and compared once for all tests."""


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "mine")
    study = a_study(prompts=[f"p{i}" for i in range(12)], metrics=["psnr", "kid"], primary={"metric": "psnr", "better": "higher"})
    folder.write_config(study, ["run", "x"])
    (folder.path / "images").mkdir()
    for i in range(12):
        for cell, against, psnr in (("base", None, None), ("c", None, 20.0 + i % 2), ("x", "c", 25.0 + i % 3)):
            row = a_row(cell=cell, against=against, prompt=f"p{i}", granted=0.5, metrics={"psnr": psnr} if psnr else {})
            (folder.path / row.image).write_bytes(b"")
            folder.append(row)
    return folder


def test_a_verdict_is_computed_again_from_kept_rows(folder, tmp_path, capsys):
    whole = Run.read(folder.path)
    copy = kept.keep(folder.path, whole.rows, tmp_path / "kept")
    shutil.rmtree(folder.path)
    assert Run.read(copy).comparisons == whole.comparisons
    assert main(["report", str(copy)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Is it so?") and "better: x" in said and "| 12 |" in said


def test_the_same_rows_are_the_same_file(folder, tmp_path):
    rows = Run.read(folder.path).rows
    a, b = (kept.keep(folder.path, rows, tmp_path / name) / kept.ROWS for name in ("a", "b"))
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("name", KEPT)
def test_every_comparison_of_a_finding_is_what_it_was(name):
    now = read(name).comparisons
    assert [(one.cell, one.against) for one in now] == [(old["cell"], old["against"]) for old in VERDICTS[name]]
    for one, old in zip(now, VERDICTS[name], strict=True):
        assert {key for key in old if _same(vars(one)[key], old[key])} == set(old)


def _same(now, old):
    """Equal, a number but for its last digits; JSON has null for a number that is none."""
    if old is None:
        return math.isnan(now)
    return math.isclose(now, old, rel_tol=1e-12) if isinstance(old, float) else now == old


def test_no_finding_has_been_lost():
    assert set(VERDICTS) == set(KEPT)


@pytest.mark.parametrize("name", KEPT)
def test_what_the_log_says_follows_from_the_rows_beside_it(name):
    assert answer(read(name).comparisons) in (FINDINGS.parent / "LOG.md").read_text()


def test_a_finding_says_what_its_cells_have_in_common():
    image, merging = "steps=20, guidance=2.0, dtype=float32", "share=[], gate=none."
    assert in_common(read("alpha-b")) == (
        f"In all cells: model=emoji, prompts=64, seeds=1, n=64; {image}; strategy=retom(ratio=0.5); "
        f"roles=['self_attention'], refresh=1, levels=3, {merging}"
    )
    swept = in_common(read("preset"))  # which sweeps strategy, roles and levels
    assert swept == f"In all cells: model=emoji, prompts=64, seeds=1, n=64; {image}; refresh=1, share=['cfg'], gate=none."


def test_what_is_swept_is_not_in_common_and_what_is_set_inside_it_is_not_either(tmp_path):
    sweep = {"steps": {"values": [2, 4]}, "strategy": {"ratio": {"start": {"values": [0.1, 0.2]}}}}
    strategy = {"name": "retom", "window": 2, "ratio": {"name": "linear", "end": 0.5}}
    merging = {"levels": None, "seed": 0}
    rows = [a_row(cell=f"c{i}", prompt=f"p{j}", merging=merging | {"refresh": i}) for i, j in ((0, 0), (1, 0), (1, 1))]
    said = in_common(Run(tmp_path, {"study": a_study(sweep=sweep, strategy=strategy, size=64)}, rows))
    assert (
        said
        == "In all cells: model=m, prompts=2, seeds=1, n=1 to 2; guidance=1.0, size=64; strategy=retom(window=2); levels=None."
    )


@pytest.mark.parametrize("name", KEPT)
def test_a_row_is_written_as_it_was_read(name):
    lines = gzip.decompress((FINDINGS / name / kept.ROWS).read_bytes()).splitlines(keepends=True)
    assert [Row.parse(line, name).line() for line in lines] == lines


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"colour": 1}, "unknown key 'colour'"),
        ({"granded": 0.5}, "did you mean 'granted'"),
        ({"seed": None}, "an object without seed"),
        (None, "a JSON list"),
        ("half", "text that is not JSON"),
    ],
)
def test_a_line_that_is_no_row_is_named_with_its_file(folder, change, hint, tmp_path, capsys):
    row = a_row(job="a").to_json() | (change if isinstance(change, dict) else {})
    line = {"half": '{"job": "a"', None: "[1]"}.get(change) if not isinstance(change, dict) else None
    line = line or json.dumps({key: value for key, value in row.items() if key not in (change or {}) or value is not None})
    with folder.results.open("a") as file:
        file.write(line + "\n")
    number = len(folder.results.read_text().splitlines())
    assert main(["report", str(folder.path)]) == 2
    said = capsys.readouterr().err
    assert f"{folder.results}: line {number}: expected a row, got" in said and hint in said and said.count("\n") == 1
    folder.path.joinpath(kept.ROWS).write_bytes(gzip.compress(f"{line}\n".encode()))
    assert main(["report", str(folder.path)]) == 2
    assert f"{folder.path / kept.ROWS}: line 1: expected a row, got" in capsys.readouterr().err


def test_an_infinite_number_is_text_in_the_file_and_a_number_in_the_row():
    row = a_row(metrics={"psnr": math.inf})
    assert json.loads(row.line())["psnr"] == "inf" and Row.parse(row.line(), "here") == row


def test_what_every_step_has_is_told_by_fifths_of_the_steps():
    rows = [
        a_row(cell=cell, prompt=prompt, stale=[0.0, None, *(value + i / 10 for i in range(8))])
        for cell, value in (("a", 0.1), ("b", 0.2))
        for prompt in ("x", "y")
    ]
    head, a, b = tables.steps_table(rows, "stale")
    assert head == ["cell", "steps 1 to 2", "steps 3 to 4", "steps 5 to 6", "steps 7 to 8", "steps 9 to 10"]
    assert a == ["a", "0.0000", "0.1500", "0.3500", "0.5500", "0.7500"]
    assert b[-1] == "0.8500"
