"""Runs a study: does every job that is not done yet, in one process or several, then evaluates the rows."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergekit_diff import attach

from ..files import check_writable
from ..metrics import check_available
from ..models import check_device, check_model, check_task, identity, load_pipeline, processes, use_threads
from ..results.folder import RunFolder
from ..results.run import Run
from ..study.cell import Cell
from ..study.config import Study
from ..study.jobs import Job, jobs
from ..study.sweep import cells
from ..study.traits import notes, records
from ..terminal import complain, say
from .call import prepared
from .ending import complain_of_missing
from .finish import finish
from .gating import Gates, decide, gated


def run(study: Study, command: list[str], fresh: bool = False) -> int:
    """Run a study into its folder; 0, or 1 if an image is missing at the end.

    In a run on several processes each of them calls this with the same study. The first one writes the configuration and, when
    all are done, the tables and the report.

    Args:
        study: what to run.
        command: the words that run it again, for the record.
        fresh: delete what an earlier run left in the folder.

    Raises:
        ValueError: the input is wrong; nothing was written.
    """
    study = replace(study, devices=processes(study.device, study.devices))
    planned, folder = cells(study), RunFolder(Path(study.out))
    check_model(study.model)
    check_metrics(study)
    check_device(study.device, study.devices)
    check_writable(folder.path)
    if not _has_peers() and "LOCAL_RANK" not in os.environ:  # else the first process may be clearing the folder right now
        _check_folder(folder, study, fresh)
    folder = RunFolder(folder.path, _rank())
    use_threads(study.threads)
    todo = jobs(planned, identity(study.model))
    if folder.rank:
        return _run_worker(folder, study, planned, todo)
    _check_folder(folder, study, fresh)
    pipe = _pipeline(study, planned) if fresh or missing(folder, todo) or _has_peers() else None
    with folder.lock():
        if fresh:
            folder.clear()
        folder.check_config(study.record())
        anew = len(folder.tidy(job.id for job in todo)) < len(todo)
        gates = folder.gates() if pipe is None else decide(pipe, planned, folder.gates())
        if anew:
            recorded = records(planned)
            folder.write_config(study.record(), command, gates, recorded)
            for note in notes(recorded):
                say(note)
        reasons, lost = _do_jobs(folder, pipe, todo, study, gates)
        result = Run.read(folder.path)
        complete = not complain_of_missing(result.jobs, todo, reasons)
        if result.rows and not lost:
            finish(result, study, [gated(cell, gates) for cell in planned], pipe, anew, complete)
        return 0 if complete and not lost else 1


def check_metrics(study: Study) -> None:
    """Refuse a study whose metrics lack something: weights, an extra, real images.

    Raises:
        ValueError: says what is missing, in one line.
    """
    for metric in study.metrics:
        check_available(metric, study.model, study.reference, study.prompts, len(study.prompts) * study.seeds)


def missing(folder: RunFolder, todo: list[Job]) -> list[Job]:
    """The jobs without a row, or whose image is gone or broken."""
    done = folder.done()
    return [job for job in todo if job.id not in done]


def try_sites(pipe: Any, planned: list[Cell]) -> None:  # noqa: ANN401
    """Hook every cell's strategy once, so that a model without known sites is refused before an image is made.

    Raises:
        ValueError: nothing in this model can be merged, or not with the cell's cache.
    """
    for cell in planned:
        if cell.strategy is not None:
            with prepared(pipe, cell):
                attach(pipe, cell.strategy, **(cell.merging or {})).remove_hooks()


def _rank() -> int:
    """Index of this process among those of the run; 0 if it is alone."""
    from lightning.pytorch.utilities import rank_zero_only

    return getattr(rank_zero_only, "rank", 0)


def _has_peers() -> bool:
    """Whether a launcher has started several processes: the others wait for this one even if no job is left."""
    return int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1) > 1


def _check_folder(folder: RunFolder, study: Study, fresh: bool) -> None:
    folder.check_own()
    if not fresh:
        folder.check_config(study.record())


def _pipeline(study: Study, planned: list[Cell]) -> Any:  # noqa: ANN401
    pipe = load_pipeline(study.model, study.device, study.dtype)
    check_task(study.model, pipe)
    try_sites(pipe, planned)
    return pipe


def _run_worker(folder: RunFolder, study: Study, planned: list[Cell], todo: list[Job]) -> int:
    """What every process but the first does: its part of the jobs.

    It exits with 0 even if an image failed, since a launcher would otherwise end the first process before its report; that one
    counts the rows and exits with 1. If a process was lost, this may be the only one left to say what is missing.
    """
    reasons, lost = _do_jobs(folder, _pipeline(study, planned), todo, study, {})
    for reason in reasons:
        complain(reason)
    return int(lost and complain_of_missing(folder.rows(), todo, []))


def _do_jobs(folder: RunFolder, pipe: Any, todo: list[Job], study: Study, gates: Gates) -> tuple[list[str], bool]:  # noqa: ANN401
    """Do the jobs; returns why some failed, and whether this process was terminated or lost another one."""
    if pipe is None:
        return [], False
    from .distributed import do_jobs
    from .generation import Generation

    return do_jobs(Generation(folder, pipe, study.metrics, gates), todo, study)
