"""The end of a run: measures sets, costs and times, prints tables and verdict, writes the report, tracks."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import write_atomically
from ..metrics import metrics
from ..results import equal_cost, summary, tables
from ..results.answer import answer, caveats
from ..results.run import Run
from ..study.cell import Cell
from ..study.config import Study
from ..terminal import complain, say, show_table

if TYPE_CHECKING:
    from ..bench.large import Large
    from ..bench.timing import Seconds


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
    _measure_times(run, study, planned, pipe, anew, complete and study.costs)
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
    from ..metrics.sets import extract
    from ..models import task_of

    values: dict[str, dict[str, Any]] = {}
    for cell, rows in run.cells.items():
        for name in names:
            outputs = (task_of(study.model).read(run.folder / row.image) for row in rows)
            own = [extract(name, output.reshape(-1, *output.shape[-3:])) for output in outputs]
            reference = features(name, study.model, study.reference)
            values.setdefault(cell, {})[name] = set_values(name, torch.stack(own), reference)
    write_atomically(path, json.dumps(values, indent=1).encode())


def _measure_times(run: Run, study: Study, planned: Sequence[Cell], pipe: Any, anew: bool, costs: bool) -> None:  # noqa: ANN401
    """What the study asks for and what is not there yet; the block of large size is timed once for both files."""
    path, speed = run.folder / "costs.json", run.folder / "speed.csv"
    missing = {path: costs and (anew or not path.exists()), speed: study.speed and not speed.exists()}
    if not any(missing.values()):
        return
    from ..bench import block_table
    from ..bench.large import UNET, like
    from ..bench.overhead import block_times, machine
    from ..models import load_pipeline
    from .cost import block_ways

    pipe = pipe or load_pipeline(study.model, study.device, study.dtype)
    device, denoiser = pipe.device.type, getattr(pipe, "unet", None) or pipe.transformer
    large = like(denoiser)
    if missing[speed] and large is not UNET:
        complain(f"speed: expected a U-Net, since the table is of one of its blocks, got {type(denoiser).__name__}: no table")
        missing[speed] = False
        if not missing[path]:
            return
    times: Mapping[str, Sequence[Seconds]] | None = None
    try:
        times = block_times(block_ways(planned), large.block, device, study.dtype, peers=missing[speed])
    except ValueError as error:
        complain(f"costs: no share of a step of {large.name}: {error}")
    if missing[path]:
        _write_costs(run, planned, pipe, large, times, machine(device))
    if missing[speed] and times is not None:
        repeats = {cell.name for cell in planned if cell.is_repeat}
        summary.write_csv(speed, block_table({name: seconds for name, seconds in times.items() if name not in repeats}))


def _write_costs(
    run: Run,
    planned: Sequence[Cell],
    pipe: Any,  # noqa: ANN401
    large: "Large",
    times: Mapping[str, "Sequence[Seconds]"] | None,
    where: str,
) -> None:
    from .cost import costs, shares

    values = costs(pipe, run, planned)
    for cell, of_large in shares(run, planned, large, times, where).items() if times is not None else ():
        values[cell] |= of_large
    for cell, rows in run.cells.items():
        values[cell]["step_seconds"] = _spread([seconds for row in rows for seconds in row.step_seconds])
    write_atomically(run.folder / "costs.json", json.dumps(values, indent=1).encode())


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of the seconds of single steps."""
    low, median, high = (float(value) for value in np.quantile(values or [0.0], [0.25, 0.5, 0.75]))
    return {"median": median, "low": low, "high": high}


def _show(run: Run) -> None:
    from ..report import write_report

    fidelity = tables.fidelity_table(run.lines.values(), run.study["metrics"], run.primary, run.noun)
    show_table(tables.fidelity_title(run.noun), fidelity)
    for note in tables.notes(run.lines.values()):
        say(note)
    if run.comparisons:
        show_table(tables.VERDICTS, tables.verdict_table(run.comparisons, run.beside))
    if run.at_equal_cost:
        show_table(equal_cost.TITLE, equal_cost.table(run.at_equal_cost))
    for comparisons in run.qualities:
        show_table(tables.quality_title(comparisons), tables.verdict_table(comparisons, {}))
    if run.primary is not None:
        say(answer(run.comparisons))
        for line in caveats(run.comparisons, run.beside, run.differing):
            say(line)
    if run.speed:
        show_table(tables.SPEED, tables.speed_table(run.speed))
    say(f"report: {write_report(run)}")
