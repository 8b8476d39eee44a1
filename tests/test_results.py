"""One object holds what came out of a run: read once, and honest about broken images and about how long a plan lived."""

import json

import pytest
from synthetic_run import CELLS, a_row, synthetic_run

from mergekit_diff.experiments.cli import main
from mergekit_diff.experiments.results import comparison, equal_cost
from mergekit_diff.experiments.results.folder import RunFolder
from mergekit_diff.experiments.results.images import is_whole, open_frames
from mergekit_diff.experiments.results.run import Run
from mergekit_diff.experiments.results.summary import summarize
from mergekit_diff.experiments.results.tables import fidelity_table
from mergekit_diff.experiments.run.generation import Generation
from mergekit_diff.experiments.tracking import sink

STUDY = {
    "prompts": ["a cat", "a dog"],
    "steps": 2,
    "sweep": {"strategy": {"values": ["retom-paper", "dynamic-ratio", "tomesd"]}},
    "control": {"strategy": "retom-paper"},
    "metrics": ["psnr"],
    "threads": 1,
    "primary": {"metric": "psnr", "better": "higher"},
}


@pytest.fixture
def words(command):
    return command(**STUDY)


@pytest.fixture
def events(monkeypatch):
    """What happened, in order, of appending and reading rows, and of computing the verdicts."""
    names = []
    watched = ((RunFolder, "rows"), (RunFolder, "append"), (comparison, "compare"), (equal_cost, "at_equal_cost"))
    for owner, name in watched:
        monkeypatch.setattr(owner, name, _noting(names, name, getattr(owner, name)))
    monkeypatch.setattr(sink, "_log_cell", lambda run, cell, *_: sink.CellLog(run, cell).summary())
    return names


def _noting(names, name, function):
    def noting(*given):
        names.append(name)
        return function(*given)

    return noting


def test_all_that_is_made_of_the_rows_reads_them_once_and_judges_once(words, events, tmp_path):
    assert main(words) == 0
    last = len(events) - events[::-1].index("append")
    assert events[last:] == ["rows", "compare", "at_equal_cost"]
    assert (tmp_path / "out" / "report.html").exists() and (tmp_path / "out" / "summary.csv").exists()


def test_a_run_and_its_kept_rows_say_the_same(words, tmp_path):
    assert main([*words, "wandb.mode=disabled"]) == 0
    folder = tmp_path / "out"
    assert main(["report", str(folder), "--rows-into", str(tmp_path / "kept")]) == 0
    run, finding = Run.read(folder), Run.read(tmp_path / "kept" / "out")
    at_home = {"study": finding.config["study"] | {"out": str(folder)}, "command": run.config["command"]}
    assert finding.rows == run.rows and finding.config | at_home == run.config and finding.costs == run.costs
    assert repr(finding.comparisons) == repr(run.comparisons) and finding.lines == run.lines
    assert run.maps and not finding.maps


def test_the_fidelity_table_says_how_long_a_plan_lived(words, tmp_path):
    assert main([*words, "steps=4", "wandb.mode=disabled"]) == 0
    run = Run.read(tmp_path / "out")
    head, *lines = fidelity_table(run.lines.values(), ["psnr"], run.primary)
    place = head.index("plan every")
    assert head[place - 1] == "granted"
    assert {line[0].split(" ")[0]: line[place] for line in lines} == {
        "base": "–",  # noqa: RUF001
        "retom-paper": "4 (one plan)",
        "dynamic-ratio": "1",  # its ratio changes at every step, though refresh is 20
        "tomesd": "1",
    }


@pytest.mark.parametrize(
    ("refresh", "steps", "plans", "shown"),
    [(4, 10, 3.0, "4"), (4, 10, None, "4"), (25, 10, 1.0, "10 (one plan)"), (25, 10, None, "10 (one plan)"), (4, 10, 5.0, "2")],
)
def test_a_plan_lives_as_asked_unless_more_plans_were_made(refresh, steps, plans, shown):
    row = a_row(merging={"refresh": refresh}, kept=[0.5] * steps, plans=plans)
    head, line = fidelity_table(summarize([row], []), [], None)
    assert line[head.index("plan every")] == shown


def test_rows_are_in_the_order_of_the_study_however_they_were_written(tmp_path):
    folder = synthetic_run(tmp_path / "run", CELLS[:1], 4, 2, parts=())
    before = Run.read(folder.path)
    lines = folder.results.read_text().splitlines(keepends=True)
    folder.results.write_text("".join(lines[8:]))
    RunFolder(folder.path, 1).results.write_text("".join(lines[:8]))
    assert Run.read(folder.path).rows == before.rows and len(before.rows) == 16


def test_what_was_measured_over_all_rows_goes_with_a_row_that_goes(tmp_path):
    folder = synthetic_run(tmp_path, CELLS[:1], 2)
    (tmp_path / "speed.csv").touch()
    measured = [tmp_path / name for name in ("sets.json", "costs.json", "speed.csv")]
    first, *others = folder.rows()
    folder.tidy([first, *others])
    assert all(file.exists() for file in measured)
    folder.tidy(others)
    assert set(folder.rows()) == set(others) and not any(file.exists() for file in measured)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data[:-20]])
def test_a_broken_image_is_named_by_the_report_and_made_again_by_the_run(damage, words, tmp_path, monkeypatch, capsys):
    words = [*words, "wandb.mode=disabled", "costs=false"]
    assert main(words) == 0
    folder = RunFolder(tmp_path / "out")
    row = next(row for row in folder.rows().values() if row.cell == "tomesd")
    file = folder.path / row.image
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    capsys.readouterr()
    assert main(["report", str(folder.path)]) == 2
    said = capsys.readouterr().err
    assert str(file) in said and "the run folder" not in said and said.count("\n") == 1
    make, again = Generation.make, []
    monkeypatch.setattr(Generation, "make", lambda self, job: again.append(job.id) or make(self, job))
    assert main(words) == 0
    assert file.read_bytes() == whole and set(again) <= {row.job, row.base}
    assert len(folder.results.read_text().splitlines()) == len(folder.rows()) == 10


def test_a_report_names_a_deleted_image_and_is_incomplete(tmp_path, capsys):
    folder = synthetic_run(tmp_path)
    first, second = list(folder.rows().values())[6:8]
    for row in (first, second):
        (folder.path / row.image).unlink()
    assert main(["report", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert f"{folder.path / first.image} and 1 more; the command of the run generates it again" in said
    assert said.count("\n") == 1 and (tmp_path / "report.html").exists()


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.9, 0.999])
def test_no_part_of_an_image_is_a_whole_image(share, tmp_path):
    folder = synthetic_run(tmp_path, CELLS[:1], 1, side=64, parts=())
    file = next((folder.path / "images").iterdir())
    assert is_whole(file) and open_frames(file)[0].size == (64, 64)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    assert not is_whole(file)


def test_a_page_names_the_image_that_it_cannot_show(tmp_path, capsys):
    folder = synthetic_run(tmp_path)
    row = list(folder.rows().values())[7]
    (folder.path / row.image).write_bytes((folder.path / row.image).read_bytes()[:200])
    assert main(["report", str(tmp_path)]) == 2
    assert str(folder.path / row.image) in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()
    assert json.loads(folder.results.read_text().splitlines()[7])["job"] == row.job
