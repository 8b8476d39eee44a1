"""The end of a run: measures sets, costs and times, prints tables and verdict, writes the report, tracks."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..files import write_atomically
from ..metrics import metrics
from ..results import equal_cost, summary, tables
from ..results.answer import answer, caveats
from ..results.run import Run
from ..study.cell import Cell
from ..study.config import Study
from ..terminal import show_table


def finish(run: Run, study: Study, planned: Sequence[Cell], pipe: Any, anew: bool, complete: bool) -> None:  # noqa: ANN401
    """Write summary.csv, sets.json, costs.json, speed.csv, the report and the tracked runs; print the tables.

    Args:
        run: at least one row; its sets, costs and speed have not been read yet.
        study: the study.
        planned: its cells.
        pipe: the pipeline, if it is loaded.
        anew: whether images were missing when the run began.
        complete: whether every job has its row; sets and costs are measured only then.
    """
    summary.write_csv(run.folder / "summary.csv", [line.numbers() for line in run.lines.values()])
    if complete:
        _measure_sets(run, study, anew)
        if study.costs:
            _measure_costs(run, study, planned, pipe, anew)
    if study.speed:
        _measure_speed(run, planned)
    _show(run)
    if study.wandb.mode != "disabled":
        from ..tracking import track

        track(run, study.wandb)


def _measure_sets(run: Run, study: Study, anew: bool) -> None:
    names, path = [name for name in study.metrics if metrics()[name].of == "set"], run.folder / "sets.json"
    if not names or (path.exists() and not anew):
        return
    import torch

    from ..metrics import set_values
    from ..metrics.reference import features
    from ..models import task_of

    values: dict[str, dict[str, Any]] = {}
    for cell, rows in run.cells.items():
        images = torch.stack([task_of(study.model).read(run.folder / row.image) for row in rows])
        for name in names:
            reference = features(name, study.model, study.reference)
            values.setdefault(cell, {})[name] = set_values(name, images, reference)
    write_atomically(path, json.dumps(values, indent=1).encode())


def _measure_costs(run: Run, study: Study, planned: Sequence[Cell], pipe: Any, anew: bool) -> None:  # noqa: ANN401
    path = run.folder / "costs.json"
    if path.exists() and not anew:
        return
    from ..models import load_pipeline
    from .cost import costs, shares

    pipe = pipe or load_pipeline(study.model, study.device, study.dtype)
    values = costs(pipe, planned, study.prompts[0])
    for cell, of_large in shares(run, planned, pipe.device.type, study.dtype).items():
        values[cell] |= of_large
    for cell, rows in run.cells.items():
        values[cell]["step_seconds"] = _spread([seconds for row in rows for seconds in row.step_seconds])
    write_atomically(path, json.dumps(values, indent=1).encode())


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of the seconds of single steps."""
    low, median, high = (float(value) for value in np.quantile(values or [0.0], [0.25, 0.5, 0.75]))
    return {"median": median, "low": low, "high": high}


def _measure_speed(run: Run, planned: Sequence[Cell]) -> None:
    path = run.folder / "speed.csv"
    if path.exists():
        return
    from ..bench import block_table

    timed = [cell for cell in planned if not cell.is_repeat]
    strategies = {cell.name: (cell.strategy, cell.merging["roles"][0]) for cell in timed if cell.strategy and cell.merging}
    summary.write_csv(path, block_table(strategies))


def _show(run: Run) -> None:
    from ..report import write_report

    show_table(tables.FIDELITY, tables.fidelity_table(run.lines.values(), run.study["metrics"], run.primary))
    for note in tables.notes(run.lines.values()):
        print(note)
    if run.comparisons:
        show_table(tables.VERDICTS, tables.verdict_table(run.comparisons, run.beside))
    if at_equal_cost := equal_cost.at_equal_cost(run):
        show_table(equal_cost.TITLE, equal_cost.table(at_equal_cost))
    for comparisons in run.qualities.values():
        if comparisons:
            show_table(tables.QUALITY, tables.verdict_table(comparisons, {}))
    if run.primary is not None:
        print(answer(run.comparisons))
        for line in caveats(run.comparisons, run.beside, run.differing):
            print(line)
    if run.speed:
        show_table(tables.SPEED, tables.speed_table(run.speed))
    print(f"report: {write_report(run)}")
