"""Runs a study: every job that is not done yet, in one process or several, then what is made of the rows."""

import os
from pathlib import Path
from typing import Any

import torch

from mergekit_diff import attach

from ..files import check_writable
from ..metrics import check_available
from ..models import check_device, check_model, identity, load_pipeline
from ..results.folder import RunFolder
from ..study.config import Study
from ..study.jobs import Job, jobs
from ..study.sweep import Cell, cells
from ..terminal import complain
from .finish import finish
from .gating import Gates, decide, gated

NAMED = 50
"""So many missing pictures are named."""


def run(study: Study, command: list[str], fresh: bool = False) -> int:
    """Run a study into its folder; 0, or 1 if a picture is missing in the end.

    Every process of a run on several calls this with the same study. The first one writes the configuration and, when all
    are done, the tables and the report.

    Args:
        study: what to run.
        command: the words that run it again, for the record.
        fresh: delete what an earlier run left in the folder.

    Raises:
        ValueError: the input is wrong; nothing was written.
    """
    planned, folder = cells(study), RunFolder(Path(study.out))
    check_model(study.model)
    check_metrics(study)
    check_device(study.device, study.devices)
    check_writable(folder.path)
    if not _has_peers() and "LOCAL_RANK" not in os.environ:  # of several, the first may be clearing the folder now
        _check_folder(folder, study, fresh)
    folder = RunFolder(folder.path, _rank())
    use_threads(study.threads)
    todo = jobs(planned, identity(study.model))
    if folder.rank:
        return _share(folder, study, planned, todo)
    _check_folder(folder, study, fresh)
    pipe = _pipeline(study, planned) if fresh or missing(folder, todo) or _has_peers() else None
    with folder.lock():
        if fresh:
            folder.clear()
        folder.check_config(study.record())
        folder.tidy(job.id for job in todo)
        anew = bool(missing(folder, todo))
        gates = folder.gates() if pipe is None else decide(pipe, planned, folder.gates())
        if anew:
            folder.write_config(study.record(), command, gates)
        reasons, lost = _make(folder, pipe, todo, study, gates)
        complete = not _complain(folder, todo, reasons)
        if not lost:
            finish(folder, study, [gated(cell, gates) for cell in planned], todo, pipe, anew, complete)
        return 0 if complete and not lost else 1


def check_metrics(study: Study) -> None:
    """Refuse a study whose metrics lack something: weights, an extra, real pictures.

    Raises:
        ValueError: says what, in one line.
    """
    for metric in study.metrics:
        check_available(metric, study.model, study.reference, study.prompts, len(study.prompts) * study.seeds)


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


def _rank() -> int:
    """Number of this process among those of the run; 0 if it is alone."""
    from lightning.pytorch.utilities import rank_zero_only

    return getattr(rank_zero_only, "rank", 0)


def _has_peers() -> bool:
    """Whether a launcher has started several processes: the others wait for this one even if nothing is left to do."""
    return int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1) > 1


def _check_folder(folder: RunFolder, study: Study, fresh: bool) -> None:
    folder.check_own()
    if not fresh:
        folder.check_config(study.record())


def _pipeline(study: Study, planned: list[Cell]) -> Any:  # noqa: ANN401
    pipe = load_pipeline(study.model, study.device, study.dtype)
    try_sites(pipe, planned)
    return pipe


def _share(folder: RunFolder, study: Study, planned: list[Cell], todo: list[Job]) -> int:
    """What a process does that is not the first: its share of the jobs.

    If a picture failed it still leaves with 0, since a launcher would end the first process before its report; that one
    counts the rows and leaves with 1. If a process was lost, this one may be the only one that can say what is missing.
    """
    reasons, lost = _make(folder, _pipeline(study, planned), todo, study, {})
    for reason in reasons:
        complain(reason)
    return int(lost and _complain(folder, todo, []))


def _make(folder: RunFolder, pipe: Any, todo: list[Job], study: Study, gates: Gates) -> tuple[list[str], bool]:  # noqa: ANN401
    """Do the jobs; returns why some failed, and whether this process was told to end or lost another one."""
    if pipe is None:
        return [], False
    from .generation import Generation
    from .prediction import predict

    return predict(Generation(folder, pipe, study.metrics, gates), todo, study)


def _complain(folder: RunFolder, todo: list[Job], reasons: list[str]) -> bool:
    """Say why jobs failed and which have no row, whatever the processes said; whether any has none."""
    for reason in reasons:
        complain(reason)
    lost = [job.id for job in missing(folder, todo)]
    if lost:
        more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
        complain(f"error: {len(lost)} of {len(todo)} pictures are missing: {' '.join(lost[:NAMED])}{more}")
    return bool(lost)
