"""Shared by both training stages: an exponential mean of weights, a resumable Lightning run, its log, a sheet of images."""

import copy
import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, Literal, TypeVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities.types import STEP_OUTPUT
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

KEEP_EVERY = 200  # steps between checkpoints
Model = TypeVar("Model", bound=nn.Module)


class Ema(nn.Module, Generic[Model]):
    """An exponential moving average of a model's weights, with a warm-up of the decay."""

    def __init__(self, model: Model, decay: float) -> None:
        super().__init__()
        self.model: Model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move every mean weight towards the model's by ``1 - decay``."""
        self.updates += 1
        decay = min(self.decay, (1 + int(self.updates)) / (10 + int(self.updates)))
        for mean, weight in zip(self.model.parameters(), model.parameters(), strict=True):
            mean.lerp_(weight, 1 - decay)


class LossLog(Callback):
    """One CSV for a training run and its resumptions: mean loss since the last row, learning rate, seconds of training so far.

    Seconds that a killed process spent after the last row that it wrote, and on steps that were repeated, are not counted.

    Args:
        path: the file; on resume, rows beyond the current step are dropped.
        every: steps between rows.
    """

    def __init__(self, path: Path, every: int = 50) -> None:
        self.path, self.every = path, every
        self.losses: list[float] = []
        self.before, self.since = 0.0, 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the rows up to the current step."""
        rows = list(csv.reader(self.path.open(newline=""))) if self.path.exists() else []
        kept = [row for row in rows[1:] if int(row[0]) <= trainer.global_step]
        self.before, self.since = float(kept[-1][3]) if kept else 0.0, time.perf_counter()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("step", "loss", "rate", "seconds"), *kept])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        """Add a row every few steps."""
        assert isinstance(outputs, Mapping)
        self.losses.append(float(outputs["loss"]))
        if trainer.global_step % self.every == 0:
            self._write(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add a row for the steps since the last one."""
        if self.losses:
            self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        mean, rate = sum(self.losses) / len(self.losses), trainer.optimizers[0].param_groups[0]["lr"]
        seconds = self.before + time.perf_counter() - self.since
        row = (trainer.global_step, f"{mean:.5f}", f"{rate:.2e}", f"{seconds:.0f}")
        with self.path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(row)
        self.losses = []


def precision() -> Literal["bf16-mixed", "32-true"]:
    """bf16 autocast where the hardware supports it: three times as fast there, half as fast elsewhere."""
    fast = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if fast else "32-true"


def last_checkpoint(folder: Path, name: str) -> Path:
    """Where :func:`fit` keeps the state of the training called ``name``."""
    return folder / "checkpoints" / name / "last.ckpt"


def fit(
    module: L.LightningModule, loader: DataLoader, steps: int, folder: Path, name: str, keep_every: int | None = None
) -> None:
    """Train up to ``steps``; resumes from ``folder/checkpoints/name`` and logs to ``folder/log/name.csv``.

    ``keep_every`` is the number of steps between checkpoints; None takes ``KEEP_EVERY``. The last step is always kept.
    """
    last, every = last_checkpoint(folder, name), keep_every or KEEP_EVERY
    keep = ModelCheckpoint(last.parent, save_last=True, save_top_k=0, every_n_train_steps=every)
    trainer = L.Trainer(
        accelerator="cpu",
        precision=precision(),
        max_steps=steps,
        callbacks=[keep, LossLog(folder / "log" / f"{name}.csv")],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
    )
    trainer.fit(module, loader, ckpt_path=last if last.exists() else None, weights_only=True)
    if trainer.global_step % every:
        trainer.save_checkpoint(last)


def save_sheet(images: Tensor, path: Path, columns: int) -> None:
    """Write (n, 3, H, W) images in [-1, 1] as one grid, or (n, 3, F, H, W) videos, each as a row of its F frames."""
    if images.dim() == 5:
        columns *= images.shape[2]
        images = images.transpose(1, 2).flatten(0, 1)
    n, _, h, w = images.shape
    rows = -(-n // columns)
    sheet = torch.full((3, rows * h, columns * w), 255, dtype=torch.uint8)
    for k, image in enumerate(((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)):
        y, x = k // columns * h, k % columns * w
        sheet[:, y : y + h, x : x + w] = image
    Image.fromarray(sheet.permute(1, 2, 0).contiguous().numpy()).save(path)
