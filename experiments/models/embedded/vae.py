"""Stage ``vae``: a KL autoencoder of factor 2, trained alone on every emoji.

Latent diffusion: Rombach et al. (2022), arXiv 2112.10752.
"""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from diffusers import AutoencoderKL, AutoencoderKLWan
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from . import data
from .training import Ema, fit, save_sheet

HELD_OUT, SHOWN = 100, 24  # images that training never sees, and those of them on the sheet
BATCH = 16
RATE = 1e-3


def new_vae() -> AutoencoderKL:
    """(B, 3, 64, 64) images in [-1, 1] to (B, 4, 32, 32) latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=data.SIZE,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )


class Autoencoder(L.LightningModule):
    """L1 + MSE + a little KL, with an exponential mean of the weights.

    Args:
        vae: of images or of videos.
        sample: returns a random batch of images, or videos, in [-1, 1].
        show: (n, 3, H, W) held-out images, or (n, 3, F, H, W) videos, in [-1, 1]: drawn as reconstructed every 250 steps.
        folder: of that sheet.
        rate: peak learning rate.
        columns: of that sheet.
    """

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderKLWan,
        sample: Callable[[torch.Generator], Tensor],
        show: Tensor,
        folder: Path,
        rate: float = RATE,
        columns: int = 12,
    ) -> None:
        super().__init__()
        self.vae, self.ema = vae, Ema(vae, 0.999)
        self.sample, self.show, self.folder, self.rate, self.columns = sample, show, folder, rate, columns

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
        """Draw images with their reconstructions."""
        if self.global_step % 250 == 0:
            pairs = torch.stack([self.show, reconstruct(self.ema.model, self.show)], 1)
            save_sheet(pairs.flatten(0, 1), self.folder / "vae.png", self.columns)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with a one-cycle schedule."""
        optimizer = torch.optim.AdamW(self.vae.parameters(), lr=self.rate, weight_decay=0.0)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.rate, steps, pct_start=0.05)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def train(folder: Path, steps: int) -> Path:
    """Train for ``steps`` batches of 16, resuming from ``folder``, and write the autoencoder to ``folder/vae``."""
    L.seed_everything(0)
    images = data.load(folder).images
    seen, x = split(len(images))[0], to_float(held_out(images))
    module = Autoencoder(new_vae(), partial(flipped, images[seen]), x[:SHOWN], folder)
    fit(module, DataLoader(torch.arange(steps)), steps, folder, "vae")
    vae = normalised(module.ema.model, to_float(images[torch.cat(split(len(images))[::-1])[:1000]]))
    print(f"PSNR on {len(x)} held-out images: {psnr(x, reconstruct(vae, x)):.2f} dB")
    vae.save_pretrained(folder / "vae", safe_serialization=True)
    return folder / "vae"


def flipped(seen: Tensor, draw: torch.Generator) -> Tensor:
    """16 of (n, 3, 64, 64) uint8 images, about half of them flipped."""
    x = to_float(seen[torch.randint(len(seen), (BATCH,), generator=draw)])
    return torch.where(torch.rand(BATCH, 1, 1, 1, generator=draw) < 0.5, x.flip(-1), x)


def held_out(images: Tensor) -> Tensor:
    """The 100 images that training never sees."""
    return images[split(len(images))[1]]


def split(n: int) -> tuple[Tensor, Tensor]:
    """Shuffled indices of the training images and of the 100 held-out images, for ``n`` images in all."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    return order[HELD_OUT:], order[:HELD_OUT]


@torch.no_grad()
def normalised(vae: AutoencoderKL, x: Tensor) -> AutoencoderKL:
    """The same autoencoder with latents of mean 0 and standard deviation 1 per channel, folded into its 1x1 convolutions.

    Args:
        vae: as trained.
        x: (n, 3, H, W) images that the moments are computed on.
    """
    vae = copy.deepcopy(vae)
    latents = encode(vae, x)
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    assert quant is not None and post is not None and quant.bias is not None and post.bias is not None
    post.bias += (post.weight[:, :, 0, 0] * mean).sum(1)
    post.weight *= std[None, :, None, None]
    quant.weight[:channels] /= std[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / std
    quant.bias[channels:] -= 2 * std.log()
    return vae


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


def to_float(images: Tensor) -> Tensor:
    """Bytes to [-1, 1]."""
    return images.float() / 127.5 - 1
