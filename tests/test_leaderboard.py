"""The leaderboard: every kept run is on it, in order of fidelity at one cost, and no curve is read beyond its ends."""

import json
import math
import re
from pathlib import Path

import pytest
from synthetic_run import a_row, a_study

import mergekit_diff.experiments
from mergekit_diff.experiments.cli import main
from mergekit_diff.experiments.results import kept
from mergekit_diff.experiments.results.folder import RunFolder
from mergekit_diff.experiments.results.leaderboard import COSTS, board, table
from mergekit_diff.experiments.results.losses import losses

PROMPTS = 8
PRIMARY = {"metric": "feature", "better": "lower"}


@pytest.fixture
def keep(tmp_path):
    """Keeps a run of a strategy: a distance for each cost, with and without log sizes, which make it a tenth of that."""

    def build(name, costs=(0.65, 0.95), far=1.0, shares=True, steps=1):
        folder, rows, known = RunFolder(tmp_path / "runs" / name), [], {"base": {"share": 1.0}}
        own = {"strategy": {"name": name, "ratio": 0.5}, "steps": steps}
        study = a_study(prompts=[], metrics=["feature", "psnr"], primary=PRIMARY, **own)
        folder.write_config(study, ["run", "zoo", f"strategy.name={name}"])
        rows += [a_row(cell="base", role="base", strategy="base", prompt=f"p{i}") for i in range(PROMPTS)]
        for sized in (False, True):
            for ratio, cost in zip((0.75, 0.25), costs, strict=True):
                cell = f"ratio={ratio}, proportional={sized}"
                known[cell] = {"share": cost}
                values = {"strategy.ratio": ratio, "merging.proportional": sized}
                distance = far * math.exp(-5 * cost) * (0.1 if sized else 1)
                metrics = [{"feature": distance * 2.0 ** (i % 3 - 1), "psnr": 30 * cost} for i in range(PROMPTS)]
                rows += [a_row(cell=cell, values=values, prompt=f"p{i}", metrics=metrics[i]) for i in range(PROMPTS)]
        if shares:
            (folder.path / "costs.json").write_text(json.dumps(known))
        return kept.keep(folder.path, rows, tmp_path / "board")

    return build


def test_curves_stand_in_order_of_their_distance_at_one_cost(keep, tmp_path):
    keep("worse", far=3.0)
    keep("better")
    entries = board(tmp_path / "board")
    assert [(entry.strategy, entry.setting) for entry in entries] == [
        ("better", "proportional=True"),
        ("worse", "proportional=True"),
        ("better", "proportional=False"),
        ("worse", "proportional=False"),
    ]
    for cost, (value, low, high), psnr in zip(COSTS, entries[2].at, entries[2].psnr, strict=True):
        middle = math.exp(-5 * cost) * 2.0 ** (sum(i % 3 - 1 for i in range(PROMPTS)) / PROMPTS)
        assert value == pytest.approx(middle) and low < value < high and psnr == pytest.approx(30 * cost)


def test_a_curve_is_not_read_beyond_its_ends_and_comes_last(keep, tmp_path):
    keep("short", costs=(0.85, 0.95), far=1e-3)
    keep("long")
    entries = board(tmp_path / "board")
    assert [entry.strategy for entry in entries] == ["long", "long", "short", "short"]
    assert [math.isnan(value) for value, _, _ in entries[-1].at] == [cost < 0.85 for cost in COSTS]


def test_the_page_has_the_board_of_the_kept_runs():
    experiments = Path(mergekit_diff.experiments.__path__[0])
    entries = board(experiments / "findings" / "zoo")
    page = (experiments.parent / "docs" / "findings" / "leaderboard.md").read_text(encoding="utf-8")
    assert f"<!-- board zoo -->\n\n{table(entries)}\n\n{losses(entries)}\n\n<!-- end -->\n" in page


def test_where_our_own_strategies_lose_is_said(keep, tmp_path):
    keep("local-match", far=2.0)
    keep("closer", far=1e-3)
    keep("as-close", far=1.9)
    keep("retom", costs=(0.85, 0.95))
    lines = losses(board(tmp_path / "board")).splitlines()
    assert len(lines) == 4 and all(line.startswith(("* `local-match`", "* `retom`")) for line in lines)
    sized, plain = (next(line for line in lines if f"`local-match` (proportional={sized})" in line) for sized in (True, False))
    assert "2 curves of others are closer, 2 by" not in sized and "`closer`" in sized and "`as-close`" in sized
    assert re.search(r"4 curves of others are closer, [34] by", plain)
    assert sum("has no cell" in line for line in lines) == 2


def test_ours_that_lose_to_nobody_say_so(keep, tmp_path):
    keep("retom")
    keep("other", far=9.0)
    assert "no strategy of others is closer" in losses(board(tmp_path / "board"))


def test_the_command_prints_the_board_or_pastes_it_into_a_page(keep, tmp_path, capsys):
    keep("retom")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- board board -->\nold\n<!-- end -->\nafter\n")
    assert main(["leaderboard", str(tmp_path / "board")]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed.count("| `retom` |") == 2
    assert main(["leaderboard", str(tmp_path / "board"), "--into", str(page)]) == 0
    assert page.read_text() == f"before\n<!-- board board -->\n\n{printed}\n\n<!-- end -->\nafter\n"


def test_a_run_that_measured_something_else_is_refused_in_one_line(keep, tmp_path, capsys):
    keep("a")
    keep("b", steps=2)
    assert main(["leaderboard", str(tmp_path / "board")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "board/b: expected the steps of a, 1, got another" in line


def test_what_is_no_board_is_refused_in_one_line(keep, tmp_path, capsys):
    keep("retom", shares=False)
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    for words in ([str(tmp_path / "none")], [str(tmp_path / "board")]):
        assert main(["leaderboard", *words]) == 2
    keep("retom")
    assert main(["leaderboard", str(tmp_path / "board"), "--into", str(page)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and "kept runs" in lines[0] and "costs" in lines[1] and "<!-- board board -->" in lines[2]


def test_a_kept_run_names_no_folder_of_the_machine(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "tomesd")
    out = str(folder.path)
    folder.write_config(a_study(prompts=[], out=out), ["run", "zoo", f"out={out}", "wandb.mode=disabled"])
    config = RunFolder(kept.keep(folder.path, [a_row()], tmp_path / "board")).config()
    assert config["study"]["out"] == "runs/tomesd"
    assert config["command"] == "mergekit-diff run zoo out=runs/tomesd wandb.mode=disabled"
