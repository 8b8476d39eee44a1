"""Runs a study: every job that is not done yet, then the tables and the report."""

from pathlib import Path
from typing import Any

import torch

from mergekit_diff import attach

from . import summary, tables
from .config import Primary, Study
from .folder import RunFolder, check_writable
from .jobs import Job, jobs
from .models import check_model, identity, load_pipeline
from .sweep import Cell, cells
from .terminal import complain, progress_bar, show_table


def run(study: Study, command: list[str], fresh: bool = False) -> int:
    """Run a study into its folder; 0, or 1 if a picture is missing in the end.

    Args:
        study: what to run.
        command: the words that run it again, for the record.
        fresh: delete what an earlier run left in the folder.

    Raises:
        ValueError: the input is wrong; nothing was written.
    """
    planned, folder = cells(study), RunFolder(Path(study.out))
    check_model(study.model)
    check_writable(folder.path)
    folder.check_own()
    if not fresh:
        folder.check_config(study.record())
    use_threads(study.threads)
    todo = jobs(planned, identity(study.model))
    pipe = load_pipeline(study.model, study.device, study.dtype) if fresh or missing(folder, todo) else None
    if pipe is not None:
        try_sites(pipe, planned)
    with folder.lock():
        if fresh:
            folder.clear()
        folder.check_config(study.record())
        folder.write_config(study.record(), command)
        folder.drop_truncated_line()
        reasons = _make(folder, pipe, missing(folder, todo), study.metrics)
        return _finish(folder, study, planned, todo, reasons)


def use_threads(threads: int | None) -> None:
    """Let torch use so many cores; None leaves it to torch."""
    if threads is not None:
        torch.set_num_threads(threads)


def missing(folder: RunFolder, todo: list[Job]) -> list[Job]:
    """The jobs that have no row, or whose picture is gone."""
    done = folder.rows()
    return [job for job in todo if job.id not in done]


def try_sites(pipe: Any, planned: list[Cell]) -> None:  # noqa: ANN401
    """Hook every cell's strategy once, so that a model without known sites is found before a picture is made.

    Raises:
        ValueError: nothing in this model can be merged.
    """
    for cell in planned:
        if cell.strategy is not None:
            attach(pipe, cell.strategy, **(cell.merging or {})).remove_hooks()


def _make(folder: RunFolder, pipe: Any, todo: list[Job], metrics: list[str]) -> list[str]:  # noqa: ANN401
    """Do the jobs; returns why some failed, each reason once. One that fails does not stop the others."""
    if not todo:
        return []
    from .generation import Generation

    generation, reasons = Generation(folder, pipe, metrics), {}
    with progress_bar("pictures", len(todo)) as advance:
        for job in todo:
            try:
                generation.do(job)
            except Exception as error:
                reasons[f"{job.cell.name}: {type(error).__name__}: {error}"] = None
            advance()
    return list(reasons)


def _finish(folder: RunFolder, study: Study, planned: list[Cell], todo: list[Job], reasons: list[str]) -> int:
    """Tables, summary and page from what is on the disk, and the check that nothing is missing there."""
    rows = folder.rows()
    done = [rows[job.id] for job in todo if job.id in rows]
    if done:
        lines = summary.summarize(done, study.metrics)
        summary.write_csv(folder.path / "summary.csv", lines)
        _show(folder, study, planned, lines)
    for reason in reasons:
        complain(reason)
    lost = [job.id for job in todo if job.id not in rows]
    if lost:
        complain(f"error: {len(lost)} of {len(todo)} pictures are missing: {' '.join(lost)}")
    return 1 if lost else 0


def _show(folder: RunFolder, study: Study, planned: list[Cell], lines: list[dict[str, Any]]) -> None:
    from .report import write_report

    primary = study.primary if isinstance(study.primary, Primary) else None
    show_table(tables.FIDELITY, tables.fidelity_table(lines, study.metrics, primary))
    for note in tables.notes(lines):
        print(note)
    if study.speed:
        show_table(tables.SPEED, tables.speed_table(_speed(folder, planned)))
    print(f"report: {write_report(folder)}")


def _speed(folder: RunFolder, planned: list[Cell]) -> list[dict[str, Any]]:
    from .bench import block_table, read_table

    path = folder.path / "speed.csv"
    if not path.exists():
        summary.write_csv(path, block_table({cell.name: (cell.strategy, cell.merging["roles"][0])
                                             for cell in planned if cell.strategy and cell.merging}))  # fmt: skip
    return read_table(path)
