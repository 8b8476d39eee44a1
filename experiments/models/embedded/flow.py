"""Training of a transformer and its text encoders by rectified flow, for images and for videos.

Rectified flow (Liu et al. 2022, arXiv 2209.03003) with logit-normal noise levels (Esser et al. 2024, arXiv 2403.03206),
captions dropped for classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598). Each batch and its noise are drawn from
the step's number alone, so a training that was interrupted ends with the same weights to the bit. Nothing is merged or pooled.
"""

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from .training import Ema, fit, last_checkpoint

WARM_UP = 300  # steps over which the rate rises
DECAY = 0.2  # share of the steps, the last ones, over which it falls
KEEP_EVERY, SHEET_EVERY = 50, 500  # steps between checkpoints, and between sheets


class Flow(L.LightningModule):
    """Modules in training, with their mean weights.

    Args:
        model: the modules that are trained together.
        steps: total number of steps; the learning rate falls over the last fifth.
        rate: peak learning rate.
    """

    def __init__(self, model: nn.ModuleDict, steps: int, rate: float) -> None:
        super().__init__()
        self.model, self.steps, self.rate = model, steps, rate
        self.ema = Ema(self.model, 0.9995)

    @abstractmethod
    def sample(self, random: torch.Generator) -> tuple[Tensor, list[str]]:
        """A batch of clean latents (B, ...) and their captions."""

    @abstractmethod
    def noise_levels(self, n: int, random: torch.Generator) -> Tensor:
        """(n,) shares of noise in (0, 1)."""

    @abstractmethod
    def velocity(self, noisy: Tensor, level: Tensor, captions: list[str]) -> Tensor:
        """The prediction of noise minus latents, of the latents' shape, at (B,) noise levels."""

    @abstractmethod
    def draw(self, path: Path) -> Path:
        """Draw the sheet from the mean weights; returns ``path``."""

    @abstractmethod
    def sheet(self, step: int) -> Path:
        """Where the sheet of a step belongs."""

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        """One batch, drawn with the number of the step as seed."""
        random = torch.Generator().manual_seed(self.global_step)
        x, captions = self.sample(random)
        noise = torch.randn(x.shape, generator=random)
        level = self.noise_levels(len(x), random)
        noisy = torch.lerp(x, noise, level.view(-1, *[1] * (x.dim() - 1)))
        return F.mse_loss(self.velocity(noisy, level, captions).float(), noise - x)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Also update the mean weights, before a checkpoint is written."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update(self.model)

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """Draw the sheet every ``SHEET_EVERY`` steps."""
        if self.global_step % SHEET_EVERY == 0:
            self.draw(self.sheet(self.global_step))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW; the rate warms up, stays constant, and falls linearly over the last fifth of the steps."""
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.rate, betas=(0.9, 0.99), weight_decay=1e-3)

        def rate(step: int) -> float:
            left = (self.steps - step) / (DECAY * self.steps)
            return min(1.0, (step + 1) / WARM_UP, max(0.02, left))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


AnyFlow = TypeVar("AnyFlow", bound=Flow)


def train(module: Flow, folder: Path, name: str, start: str | None = None) -> None:
    """Train up to the module's steps, resuming from ``folder``.

    Args:
        module: what is trained.
        folder: work folder of all stages.
        name: of this training, for its checkpoints and its log.
        start: name of the training whose mean weights this one begins with, if there is a checkpoint of it.
    """
    if start is not None:
        begin_with(module, last_checkpoint(folder, start))
    fit(module, DataLoader(torch.arange(module.steps)), module.steps, folder, name, KEEP_EVERY)


def begin_with(module: Flow, checkpoint: Path) -> None:
    """Start from the mean weights of another checkpoint, if it exists, with a new optimizer and a new average."""
    if checkpoint.exists():
        module.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
        module.model.load_state_dict(module.ema.model.state_dict())
        module.ema = Ema(module.model, module.ema.decay)


def trained(make: Callable[[int], AnyFlow], folder: Path, name: str) -> tuple[AnyFlow, int]:
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
        raise FileNotFoundError(f"expected a checkpoint of the stage transformer, got none: {path}")
    state = torch.load(path, weights_only=True)
    module = make(state["global_step"])
    module.load_state_dict(state["state_dict"])
    return module.eval(), state["global_step"]
