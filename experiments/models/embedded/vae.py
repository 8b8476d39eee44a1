"""Stage ``vae``: a KL autoencoder of factor 2, trained alone on every emoji."""

import copy
from functools import partial
from pathlib import Path

import lightning as L
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from . import data
from .autoencoder import Autoencoder, encode, psnr, reconstruct, split, train_and_write
from .phase import Phase

PHASE = Phase("vae", "autoencoder", steps=1800, batch=16, rate=1e-3)
SHOWN = 24  # held-out images on the sheet


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


def train(folder: Path, steps: int | None = None, minutes: float | None = None) -> Path | None:
    """Train on batches of 16 images and write the autoencoder to ``folder/vae``; see :func:`train_and_write`."""
    L.seed_everything(0)
    images = data.load(folder).images
    seen, x = split(len(images))[0], to_float(held_out(images))
    module = Autoencoder(new_vae(), partial(flipped, images[seen]), x[:SHOWN], folder, PHASE.rate)
    some = to_float(images[torch.cat(split(len(images))[::-1])[:1000]])
    complete = partial(normalised, x=some)
    return train_and_write(module, steps or PHASE.steps, minutes, complete, lambda vae: {"images": psnr(x, reconstruct(vae, x))})


def flipped(seen: Tensor, draw: torch.Generator) -> Tensor:
    """16 of (n, 3, 64, 64) uint8 images, about half of them flipped."""
    x = to_float(seen[torch.randint(len(seen), (PHASE.batch,), generator=draw)])
    return torch.where(torch.rand(len(x), 1, 1, 1, generator=draw) < 0.5, x.flip(-1), x)


def held_out(images: Tensor) -> Tensor:
    """The 100 images that training never sees."""
    return images[split(len(images))[1]]


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


def to_float(images: Tensor) -> Tensor:
    """Bytes to [-1, 1]."""
    return images.float() / 127.5 - 1
