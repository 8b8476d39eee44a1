"""Shared by all trainings: an exponential mean of weights, and a run that can be killed, paused or limited in time."""

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Literal, TypeVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn
from torch.utils.data import DataLoader

from .logs import LossLog

KEEP_EVERY = 50  # steps between checkpoints
Model = TypeVar("Model", bound=nn.Module)
Module = TypeVar("Module", bound=L.LightningModule)


class Ema(nn.Module, Generic[Model]):
    """An exponential moving average of a model's weights over about the last ninth of the training so far.

    After t updates the decay is (1 + t) / (10 + t), the power function with gamma = 8 of Karras et al. (2023), arXiv 2312.02696,
    section 3.1, until it reaches its maximum. So a short training has a short memory, without a setting of its own.

    Args:
        model: it starts from.
        decay: the maximum.
    """

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


class Keep(Checkpoint):
    """Keeps the state of a training every few steps and at its last one, and ends it when its time is over.

    The file is replaced in one move: however a process ends, a whole checkpoint is left.

    Args:
        path: the file.
        every: steps between checkpoints.
        minutes: until the end, from now on; None sets no end.
    """

    def __init__(self, path: Path, every: int, minutes: float | None = None) -> None:
        self.path, self.every = path, every
        self.end = math.inf if minutes is None else time.monotonic() + 60 * minutes

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        """Keep the state when it is due; the rows of the logs are written before."""
        over = time.monotonic() >= self.end
        if over or trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            partial = self.path.with_suffix(".partial")
            trainer.save_checkpoint(partial)
            partial.replace(self.path)
        trainer.should_stop |= over


def precision() -> Literal["bf16-mixed", "32-true"]:
    """bf16 autocast where the hardware supports it: three times as fast there, half as fast elsewhere."""
    fast = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if fast else "32-true"


def last_checkpoint(folder: Path, name: str) -> Path:
    """Where :func:`fit` keeps the state of the training called ``name``."""
    return folder / "checkpoints" / name / "last.ckpt"


def fit(module: L.LightningModule, steps: int, folder: Path, name: str, minutes: float | None = None) -> bool:
    """Train up to ``steps``; resumes from ``folder/checkpoints/name`` and logs to ``folder/log/name.csv``.

    Args:
        module: draws its own batches from ``global_step``.
        steps: in total.
        folder: work folder of all stages.
        name: of the training.
        minutes: after which it ends with a checkpoint; None trains to the last step.

    Returns:
        Whether all steps were taken.
    """
    last = last_checkpoint(folder, name)
    trainer = L.Trainer(
        accelerator="cpu",
        precision=precision(),
        max_steps=steps,
        callbacks=[LossLog(folder / "log" / f"{name}.csv"), Keep(last, KEEP_EVERY, minutes)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
    )
    numbers = DataLoader(torch.arange(steps))
    trainer.fit(module, numbers, ckpt_path=last if last.exists() else None, weights_only=True)
    print(f"{name}: step {trainer.global_step:,} of {steps:,}")
    return trainer.global_step >= steps


def restore(make: Callable[[int], Module], folder: Path, name: str) -> tuple[Module, int]:
    """The last checkpoint of a training, and its step.

    Args:
        make: the module of that training, for a number of steps.
        folder: work folder of all stages.
        name: of the training.

    Raises:
        FileNotFoundError: there is no such training in ``folder``.
    """
    path = last_checkpoint(folder, name)
    if not path.exists():
        raise FileNotFoundError(f"expected a checkpoint of the training {name}, got none: {path}")
    state = torch.load(path, weights_only=True)
    module = make(state["global_step"])
    module.load_state_dict(state["state_dict"])
    return module.eval(), state["global_step"]
