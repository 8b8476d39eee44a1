"""Kept rows give the tables and the verdict of their run, without its pictures."""

import shutil
from pathlib import Path

import pytest
import yaml

import mergekit_diff.experiments
from mergekit_diff.experiments.cli import main
from mergekit_diff.experiments.results import comparison, kept, tables
from mergekit_diff.experiments.results.folder import RunFolder

KEPT = sorted(path.parent for path in Path(mergekit_diff.experiments.__path__[0]).glob(f"findings/*/{kept.ROWS}"))


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "mine")
    study = {"question": "Is it so?", "metrics": ["psnr", "kid"], "primary": {"metric": "psnr", "better": "higher"}}
    folder.write_config(study, ["run", "x"])
    (folder.path / "images").mkdir()
    for i in range(12):
        for cell, against, psnr in (("base", None, None), ("c", None, 20.0 + i % 2), ("x", "c", 25.0 + i % 3)):
            job = f"{cell}{i}"
            (folder.path / "images" / f"{job}.png").write_bytes(b"")
            row = {"job": job, "cell": cell, "against": against, "role": "cell", "prompt": f"p{i}", "seed": 0, "strategy": "s"}
            folder.append(row | {"image": f"images/{job}.png", "granted": 0.5} | ({"psnr": psnr} if psnr else {}))
    return folder


def test_a_verdict_is_computed_again_from_kept_rows(folder, tmp_path, capsys):
    whole = comparison.compare(folder.rows().values(), "psnr", "higher")
    copy = kept.keep(folder, tmp_path / "kept")
    shutil.rmtree(folder.path)
    assert comparison.compare(kept.read(copy), "psnr", "higher") == whole
    assert main(["report", str(copy)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Is it so?") and "better: x" in said and "| 12 |" in said


def test_the_same_rows_are_the_same_file(folder, tmp_path):
    a, b = (kept.keep(folder, tmp_path / name) / kept.ROWS for name in ("a", "b"))
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name)
def test_what_the_log_says_follows_from_the_rows_beside_it(path):
    study = yaml.safe_load((path / "config.yaml").read_text())["study"]
    compared = comparison.compare(kept.read(path), study["primary"]["metric"], study["primary"]["better"])
    log = (path.parent.parent / "LOG.md").read_text()
    assert comparison.answer(compared) in log


def test_what_every_step_has_is_told_by_fifths_of_the_steps():
    rows = [
        {"cell": cell, "prompt": prompt, "stale": [0.0, None, *(value + i / 10 for i in range(8))]}
        for cell, value in (("a", 0.1), ("b", 0.2))
        for prompt in ("x", "y")
    ]
    head, a, b = tables.steps_table(rows, "stale")
    assert head == ["cell", "steps 1 to 2", "steps 3 to 4", "steps 5 to 6", "steps 7 to 8", "steps 9 to 10"]
    assert a == ["a", "0.0000", "0.1500", "0.3500", "0.5500", "0.7500"]
    assert b[-1] == "0.8500"
