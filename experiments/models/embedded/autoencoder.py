"""Training of an autoencoder, of images or of videos, and what it makes of them.

Latent diffusion: Rombach et al. (2022), arXiv 2112.10752.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from diffusers import AutoencoderKL, AutoencoderKLWan
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn import functional as F

from .sheets import save_sheet
from .training import Ema, fit

HELD_OUT = 100  # emoji that training never sees
SHEET_EVERY = 250  # steps


def adamw(model: nn.Module, rate: float) -> torch.optim.AdamW:
    """AdamW without weight decay."""
    return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)


class Autoencoder(L.LightningModule):
    """L1 + MSE + a little KL, with an exponential mean of the weights.

    Args:
        vae: of images or of videos.
        sample: returns a random batch of images, or videos, in [-1, 1].
        show: (n, 3, H, W) held-out images, or (n, 3, F, H, W) videos, in [-1, 1]: reconstructed and drawn every few steps.
        folder: of that sheet.
        rate: peak learning rate.
        columns: of that sheet.
        optimizer: called with the autoencoder and the rate.
    """

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderKLWan,
        sample: Callable[[torch.Generator], Tensor],
        show: Tensor,
        folder: Path,
        rate: float,
        columns: int = 12,
        optimizer: Callable[[nn.Module, float], torch.optim.Optimizer] = adamw,
    ) -> None:
        super().__init__()
        self.vae, self.ema = vae, Ema(vae, 0.999)
        self.sample, self.show, self.folder, self.rate, self.columns = sample, show, folder, rate, columns
        self.optimizer = optimizer

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        """One batch, drawn with the number of the step as seed."""
        draw = torch.Generator().manual_seed(self.global_step)
        x = self.sample(draw)
        posterior = self.vae.encode(x, return_dict=False)[0]
        y = self.vae.decode(posterior.sample(draw), return_dict=False)[0].float()
        return (y - x).abs().mean() + 4 * F.mse_loss(y, x) + 1e-5 * posterior.kl().float().mean() / x[0].numel()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Also update the mean weights, before a checkpoint is written."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update(self.vae)

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """Draw images with their reconstructions, and print how close these are."""
        if self.global_step % SHEET_EVERY == 0:
            drawn = reconstruct(self.ema.model, self.show)
            print(f"step {self.global_step:,}: PSNR {psnr(self.show, drawn):.2f} dB on {len(drawn)} of them")
            save_sheet(torch.stack([self.show, drawn], 1).flatten(0, 1), self.folder / "vae.png", self.columns)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """A one-cycle schedule; AdamW has one of its momentum too."""
        optimizer = self.optimizer(self.vae, self.rate)
        steps, momentum = int(self.trainer.estimated_stepping_batches), isinstance(optimizer, torch.optim.AdamW)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.rate, steps, pct_start=0.05, cycle_momentum=momentum)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def train_and_write(
    module: Autoencoder,
    steps: int,
    minutes: float | None,
    complete: Callable[[Any], AutoencoderKL | AutoencoderKLWan],
    measure: Callable[[Any], dict[str, float]],
) -> Path | None:
    """Train, resuming from the module's folder, then write the autoencoder to its ``vae`` and print the PSNR.

    Args:
        module: what is trained.
        steps: in total.
        minutes: after which the training ends with a checkpoint; None trains to the last step.
        complete: makes the final autoencoder from the mean weights.
        measure: the PSNR of it in dB, on what training never saw, by what that is.

    Returns:
        The autoencoder's folder; None if not all steps were taken.
    """
    if not fit(module, steps, module.folder, "vae", minutes):
        return None
    vae = complete(module.ema.model)
    for name, value in measure(vae).items():
        print(f"PSNR on held-out {name}: {value:.2f} dB")
    vae.save_pretrained(module.folder / "vae", safe_serialization=True)
    return module.folder / "vae"


def split(n: int) -> tuple[Tensor, Tensor]:
    """Shuffled indices of the training images and of the 100 held-out images, for ``n`` images in all."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    return order[HELD_OUT:], order[:HELD_OUT]


@torch.no_grad()
def encode(vae: AutoencoderKL | AutoencoderKLWan, x: Tensor) -> Tensor:
    """Modes of the latents, (n, C, h, w) of images, (n, C, f, h, w) of videos."""
    return torch.cat([vae.encode(part, return_dict=False)[0].mode() for part in x.split(64)])


@torch.no_grad()
def reconstruct(vae: AutoencoderKL | AutoencoderKLWan, x: Tensor) -> Tensor:
    """Reconstructed images, or videos, in [-1, 1]."""
    return torch.cat([vae.decode(encode(vae, part), return_dict=False)[0] for part in x.split(64)]).clamp(-1, 1)


def psnr(x: Tensor, y: Tensor) -> float:
    """Mean over images, or videos, of the peak signal-to-noise ratio in dB, for values in [-1, 1]."""
    return float((10 * torch.log10(4 / (x - y).square().flatten(1).mean(1))).mean())
