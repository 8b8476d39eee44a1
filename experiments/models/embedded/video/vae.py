"""Stage ``vae``: the video autoencoder, trained alone on every emoji, in motion on random backgrounds."""

from functools import partial
from pathlib import Path

import lightning as L
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from .. import cutouts
from ..autoencoder import Autoencoder, encode, psnr, reconstruct, split, train_and_write
from ..optimizers import muon, of_convolutions
from ..phase import Phase
from ..scenes import seeded
from . import samples
from .model import new_vae

PHASE = Phase("vae", "autoencoder", steps=1_600, batch=4, rate=3e-3)
SHOWN, MEASURED = 8, 128  # videos on the sheet, and for the moments of the latents


def train(folder: Path, steps: int | None = None, minutes: float | None = None) -> Path | None:
    """Train, resuming from ``folder``, and write the autoencoder to ``folder/vae``; see :func:`..vae.train_and_write`."""
    L.seed_everything(0)
    emoji = cutouts.load(folder).images
    seen, _ = split(len(emoji))
    held = held_out(emoji)
    sample = partial(samples.without_captions, emoji, seen, PHASE.batch)
    optimizer = partial(muon, inside=of_convolutions)
    module = Autoencoder(new_vae(), sample, held[:SHOWN], folder, PHASE.rate, columns=2, optimizer=optimizer)
    x = samples.without_captions(emoji, seen, MEASURED, seeded(0))
    complete = partial(with_moments, x=x)

    def measure(vae: AutoencoderKLWan) -> dict[str, float]:
        return {"videos": psnr(held, reconstruct(vae, held))}

    return train_and_write(module, steps or PHASE.steps, minutes, complete, measure)


def held_out(emoji: Tensor) -> Tensor:
    """Videos of the 100 emoji that training never sees, always the same: (100, 3, 9, 64, 64) in [-1, 1]."""
    unseen = split(len(emoji))[1]
    return torch.cat([samples.without_captions(emoji, row[None], 1, seeded(int(row))) for row in unseen])


def with_moments(vae: AutoencoderKLWan, x: Tensor) -> AutoencoderKLWan:
    """The autoencoder with the mean and deviation of each latent channel in its configuration, where WanPipeline reads them.

    Args:
        vae: as trained; it is changed.
        x: (n, 3, F, H, W) videos that the moments are computed on.
    """
    latents = encode(vae, x)
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    return vae


def normalise(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """(n, 16, f, h, w) latents with the moments of the configuration taken out: what the transformer sees."""
    mean, std = (torch.tensor(vae.config[name]).view(-1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    return (latents - mean) / std
