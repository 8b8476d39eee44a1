"""What is made of the rows when the pictures are there: sets and costs measured, tables, verdict, report, tracking."""

import json
from typing import Any

import numpy as np
import torch

from ..files import write_atomically
from ..metrics import metrics
from ..results import comparison, summary, tables
from ..results.folder import RunFolder
from ..study.config import Primary, Study
from ..study.jobs import Job
from ..study.sweep import Cell
from ..terminal import show_table


def finish(folder: RunFolder, study: Study, planned: list[Cell], todo: list[Job], pipe: Any, anew: bool, complete: bool) -> None:  # noqa: ANN401
    """Write summary.csv, sets.json, costs.json, the report and the tracked runs; print the tables.

    Args:
        folder: of the run.
        study: what was run.
        planned: its cells.
        todo: its jobs, which give the tables their order.
        pipe: the pipeline, if it is loaded.
        anew: whether pictures were missing when the run began.
        complete: whether every job has its row; sets and costs are measured only then.
    """
    rows = folder.rows()
    done = [rows[job.id] for job in todo if job.id in rows]
    if not done:
        return
    lines = summary.summarize(done, tables.per_picture(study.metrics))
    summary.write_csv(folder.path / "summary.csv", lines)
    if complete:
        _measure_sets(folder, study, done, anew)
        if study.costs:
            _measure_costs(folder, study, planned, done, pipe, anew)
    _show(folder, study, planned, lines, done)
    _track(folder, study)


def _measure_sets(folder: RunFolder, study: Study, rows: list[dict[str, Any]], anew: bool) -> None:
    names, path = [name for name in study.metrics if metrics()[name].of == "set"], folder.path / "sets.json"
    if not names or (path.exists() and not anew):
        return
    from ..metrics import set_values
    from ..metrics.reference import features
    from ..models import task_of

    found: dict[str, dict[str, Any]] = {}
    for cell, group in comparison.by_cell(rows).items():
        pictures = torch.stack([task_of(study.model).read(folder.path / row["image"]) for row in group])
        for name in names:
            reference = features(name, study.model, study.reference)
            found.setdefault(cell, {})[name] = set_values(name, pictures, reference)
    write_atomically(path, json.dumps(found, indent=1).encode())


def _measure_costs(
    folder: RunFolder,
    study: Study,
    planned: list[Cell],
    rows: list[dict[str, Any]],
    pipe: Any,  # noqa: ANN401
    anew: bool,
) -> None:
    path = folder.path / "costs.json"
    if path.exists() and not anew:
        return
    from ..models import load_pipeline
    from .cost import costs

    pipe = pipe or load_pipeline(study.model, study.device, study.dtype)
    found = costs(pipe, planned, study.prompts[0])
    for cell, group in comparison.by_cell(rows).items():
        found[cell]["step_seconds"] = _spread([seconds for row in group for seconds in row["step_seconds"]])
    write_atomically(path, json.dumps(found, indent=1).encode())


def _spread(values: list[float]) -> dict[str, float]:
    """Median and the quartiles of the seconds of single steps."""
    low, median, high = (float(value) for value in np.quantile(values or [0.0], [0.25, 0.5, 0.75]))
    return {"median": median, "low": low, "high": high}


def _show(folder: RunFolder, study: Study, planned: list[Cell], lines: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    from ..report import write_report

    primary = study.primary if isinstance(study.primary, Primary) else None
    show_table(tables.FIDELITY, tables.fidelity_table(lines, study.metrics, primary))
    for note in tables.notes(lines):
        print(note)
    if primary is not None:
        compared = comparison.compare(rows, primary.metric, primary.better)
        if compared:
            show_table(tables.VERDICTS, tables.verdict_table(compared))
        print(comparison.answer(compared))
    if study.speed:
        show_table(tables.SPEED, tables.speed_table(_speed(folder, planned)))
    print(f"report: {write_report(folder)}")


def _speed(folder: RunFolder, planned: list[Cell]) -> list[dict[str, Any]]:
    from ..bench import block_table, read_table

    path = folder.path / "speed.csv"
    if not path.exists():
        summary.write_csv(path, block_table({cell.name: (cell.strategy, cell.merging["roles"][0])
                                             for cell in planned if cell.strategy and cell.merging}))  # fmt: skip
    return read_table(path)


def _track(folder: RunFolder, study: Study) -> None:
    if study.wandb.mode != "disabled":
        from ..tracking import track

        track(folder, study.record())
