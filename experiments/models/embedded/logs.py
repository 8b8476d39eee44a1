"""Logs of a training: CSV files of one row every few steps, which a resumed run goes on with."""

import csv
import time
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

EVERY = 50  # steps between rows
RANGES = 5  # of noise levels


class Log(Callback):
    """A CSV file of a training run and its resumptions.

    Args:
        path: the file; on resume, rows beyond the current step are dropped.
        columns: names of what :meth:`row` returns; the step comes before them.
        every: steps between rows.
    """

    def __init__(self, path: Path, columns: tuple[str, ...], every: int = EVERY) -> None:
        self.path, self.columns, self.every = path, columns, every
        self.last: list[str] = []

    @abstractmethod
    def add(self, outputs: Mapping[str, Any]) -> None:
        """Take what the training step returned."""

    @abstractmethod
    def row(self, trainer: L.Trainer) -> list[str]:
        """Sum up what was added since the last row."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the rows up to the current step."""
        rows = list(csv.reader(self.path.open(newline=""))) if self.path.exists() else []
        kept = [row for row in rows[1:] if int(row[0]) <= trainer.global_step]
        self.last, self.written = (kept[-1] if kept else []), trainer.global_step
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write("w", [["step", *self.columns], *kept])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        """Add a row every few steps."""
        assert isinstance(outputs, Mapping)
        self.add(outputs)
        if trainer.global_step % self.every == 0:
            self.end_row(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add a row for the steps since the last one."""
        if trainer.global_step > self.written:
            self.end_row(trainer)

    def end_row(self, trainer: L.Trainer) -> None:
        """Write the row of the steps since the last one."""
        self._write("a", [[str(trainer.global_step), *self.row(trainer)]])
        self.written = trainer.global_step

    def _write(self, mode: str, rows: list[list[str]]) -> None:
        with self.path.open(mode, newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


class LossLog(Log):
    """Mean loss since the last row, learning rate, and CPU seconds of training so far, of all threads together.

    CPU time leaves out pauses and what other work on the machine costs. Also left out is what a killed process did after the last
    row that it wrote.
    """

    def __init__(self, path: Path, every: int = EVERY) -> None:
        super().__init__(path, ("loss", "rate", "seconds"), every)
        self.losses: list[float] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to count the seconds."""
        super().on_train_start(trainer, pl_module)
        self.before, self.since = float(self.last[3]) if self.last else 0.0, time.process_time()

    def add(self, outputs: Mapping[str, Any]) -> None:
        """Take the loss."""
        self.losses.append(float(outputs["loss"]))

    def row(self, trainer: L.Trainer) -> list[str]:
        """The three columns."""
        mean, rate = sum(self.losses) / len(self.losses), trainer.optimizers[0].param_groups[0]["lr"]
        self.losses = []
        return [f"{mean:.5f}", f"{rate:.2e}", f"{self.before + time.process_time() - self.since:.0f}"]


class LevelLog(Log):
    """Mean loss since the last row in each fifth of the noise levels: layout is learnt at high ones, detail at low ones.

    The training step returns ``levels`` (B,) in [0, 1] and ``losses`` (B,) besides the loss.
    """

    def __init__(self, path: Path, every: int = EVERY) -> None:
        super().__init__(path, tuple(f"{i / RANGES:.1f} to {(i + 1) / RANGES:.1f}" for i in range(RANGES)), every)
        self.sums = torch.zeros(2, RANGES)

    def add(self, outputs: Mapping[str, Tensor]) -> None:
        """Take the losses, each in the range of its noise level."""
        losses, ranges = outputs["losses"], (outputs["levels"] * RANGES).long().clamp(max=RANGES - 1)
        self.sums.index_add_(1, ranges, torch.stack([losses, torch.ones_like(losses)]))

    def row(self, trainer: L.Trainer) -> list[str]:
        """The mean of every range; empty where there was no sample."""
        values = [f"{total / n:.5f}" if n else "" for total, n in self.sums.T.tolist()]
        self.sums.zero_()
        return values
