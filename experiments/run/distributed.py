"""Distributes jobs over processes: Lightning runs them, a writer keeps every image as soon as it is made.

The unit of work is a (prompt, seed) with its base and all its cells, so that a base is made once, by the process that needs it.
"""

import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader

from ..files import REMEDIES, with_remedy
from ..models import resolve_device, shared_cores
from ..study.config import Study
from ..study.jobs import Job, units
from ..terminal import progress_bar
from .ending import Watch, exit_at_once
from .generation import Generation
from .result import Result

PATIENCE = timedelta(days=30)
"""How long a finished process may wait for the others."""


class Worker(L.LightningModule):
    """Makes the images of this process's part of the jobs.

    Args:
        generation: makes and keeps one image.
        todo: every job of the study, the same in all processes.
    """

    def __init__(self, generation: Generation, todo: Sequence[Job]) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # on resume a process may have nothing left to do
        self.generation, self.units = generation, units(todo)
        self.jobs: list[Job] = []

    def predict_dataloader(self) -> DataLoader:
        """Indices of jobs. Which process gets which depends on the study alone, not on what is done already.

        The gates are broadcast from the first process here, since a process without jobs does not reach any later hook.
        """
        self.generation.gates = self.trainer.strategy.broadcast(self.generation.gates)
        done = self.generation.folder.rows()
        mine = self.units[self.trainer.global_rank :: self.trainer.world_size]
        self.jobs = [job for unit in mine for job in unit if job.id not in done]
        return DataLoader(range(len(self.jobs)), batch_size=None)  # pyright: ignore[reportArgumentType]

    def on_predict_start(self) -> None:
        """Move the pipeline to this process's own device."""
        if self.device.type == "cuda":
            self.generation.pipe.to(self.device)

    def predict_step(self, number: int) -> Result | Exception:
        """Make one image; a failure does not stop the others."""
        try:
            return self.generation.make(self.jobs[number])
        except Exception as error:
            return error


class Writer(BasePredictionWriter):
    """Keeps every image and its row; remembers why some failed, each reason once."""

    def __init__(self) -> None:
        super().__init__("batch")
        self.reasons: dict[str, None] = {}
        self._unit: tuple[str, int] | None = None
        self._stack = ExitStack()
        self._advance: Callable[[], None] = lambda: None
        self._terminated, self._parent = False, os.getppid()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the progress of the first process, which stands for all, and end between two images on SIGTERM."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda number, _: self._terminate(trainer, number))
        if trainer.is_global_zero and isinstance(pl_module, Worker):
            self._advance = self._stack.enter_context(progress_bar("images", len(pl_module.jobs)))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remove the progress bar."""
        self._stack.close()

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Any,  # noqa: ANN401
        batch_indices: Sequence[int] | None,
        batch: int,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Keep one image.

        Raises:
            InterruptedError: the process received SIGTERM, or lost the process that started it.
            OSError: the disk is full or cannot be written to, so that no other image could be kept either.
        """
        assert isinstance(pl_module, Worker)
        job, generation = pl_module.jobs[batch], pl_module.generation
        if self._unit != (job.prompt, job.seed):
            generation.forget()
            self._unit = (job.prompt, job.seed)
        try:
            if isinstance(prediction, Exception):
                raise prediction
            generation.keep(job, prediction)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in REMEDIES:
                raise
            self.reasons[f"{job.cell.name}: {type(error).__name__}: {error}"] = None
        self._advance()
        if self._terminated:
            raise InterruptedError("terminated; the same command again resumes")
        if not trainer.is_global_zero and os.getppid() != self._parent:
            raise InterruptedError("the process that started this one is gone")

    def _terminate(self, trainer: L.Trainer, number: int) -> None:
        """End after this image, and pass the signal on to the processes that this one has started.

        Replaces the handler of Lightning 2.6, which broadcasts from inside the signal and so fails in the middle of an image once
        another process is gone. Lightning restores the previous handler at the end.
        """
        self._terminated = True
        launcher: Any = trainer.strategy.launcher
        if launcher is not None:
            launcher.kill(number)
            launcher.procs.clear()  # Lightning would kill this process as soon as one of them has ended


def do_jobs(generation: Generation, todo: Sequence[Job], study: Study) -> tuple[list[str], bool]:
    """Do all jobs that are not done yet, or this process's part of them.

    Whether all were done is for the caller to read from the rows: a process that died can't report it.

    Returns:
        Why some failed, and whether this process was terminated or has lost another one.
    """
    writer, lost = Writer(), False
    with _interruptible(), _quiet(), shared_cores(study.device, study.devices, study.threads):
        trainer = _trainer(study, writer)
        launcher = trainer.strategy.launcher
        watch = Watch(launcher, lambda reason: exit_at_once(launcher, generation.folder.rows(), todo, reason))
        try:
            with watch:
                trainer.predict(Worker(generation, todo), return_predictions=False)
                trainer.strategy.barrier()
            _leave_group()
        except OSError as error:
            writer.reasons[f"error: {with_remedy(error)}"] = None
            lost = True
        except Exception as error:
            writer.reasons[watch.death() or f"{type(error).__name__}: {error}".splitlines()[0]] = None
            lost = True
    return list(writer.reasons), lost


def _leave_group() -> None:
    """Close the connections between processes explicitly: left to Python's exit, a process may abort (torch 2.13)."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _trainer(study: Study, writer: Writer) -> L.Trainer:
    devices, nodes = _processes(study)
    device = resolve_device(study.device)
    return L.Trainer(
        accelerator="gpu" if device == "cuda" else device,
        devices=devices,
        num_nodes=nodes,
        strategy=DDPStrategy(timeout=PATIENCE) if devices * nodes > 1 else "auto",
        callbacks=[writer],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        inference_mode=False,
    )


def _processes(study: Study) -> tuple[int, int]:
    """Processes per node, and nodes: as torchrun started them, else as the study says."""
    if not TorchElasticEnvironment.detect():
        return study.devices, study.num_nodes
    local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    return local, world // local


@contextmanager
def _interruptible() -> Iterator[None]:
    """Restores KeyboardInterrupt: Lightning turns an interrupt into an exit and ignores the next one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        raise KeyboardInterrupt from end
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences Lightning's messages about devices and workers."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
