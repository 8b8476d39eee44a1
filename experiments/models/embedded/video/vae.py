"""Stage ``vae``: the video autoencoder, trained alone on every emoji, in motion on random backgrounds."""

from functools import partial
from pathlib import Path

import lightning as L
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.utils.data import DataLoader

from ..flux import backgrounds, data
from ..training import fit
from ..vae import Autoencoder, encode, psnr, reconstruct, split
from .model import new_vae
from .motions import MOTIONS, path, render
from .scenes import SIDE

BATCH = 8
RATE = 1e-3
STEPS = 6_000
KEEP_EVERY = 50  # steps between checkpoints
SHOWN, MEASURED = 8, 128  # videos on the sheet, and for the moments of the latents


def train(folder: Path, steps: int) -> Path:
    """Train for ``steps`` batches of 8 videos, resuming from ``folder``, and write the autoencoder to ``folder/vae``."""
    L.seed_everything(0)
    images = data.load(folder).images
    seen, unseen = split(len(images))
    held = held_out(images)
    module = Autoencoder(new_vae(), partial(any_videos, images, seen, BATCH), held[:SHOWN], folder, RATE, columns=2)
    fit(module, DataLoader(torch.arange(steps)), steps, folder, "vae", KEEP_EVERY)
    vae = module.ema.model
    set_moments(vae, any_videos(images, seen, MEASURED, torch.Generator().manual_seed(0)))
    print(f"PSNR on {len(unseen)} held-out videos: {psnr(held, reconstruct(vae, held)):.2f} dB")
    vae.save_pretrained(folder / "vae", safe_serialization=True)
    return folder / "vae"


def held_out(images: Tensor) -> Tensor:
    """Videos of the 100 emoji that training never sees, always the same: (100, 3, 9, 64, 64) in [-1, 1]."""
    unseen = split(len(images))[1]
    return torch.cat([any_videos(images, row[None], 1, torch.Generator().manual_seed(int(row))) for row in unseen])


def any_videos(images: Tensor, rows: Tensor, n: int, random: torch.Generator) -> Tensor:
    """(n, 3, 9, 64, 64) videos in [-1, 1] of random emoji in random motion, about half of them mirrored.

    Args:
        images: (m, 4, H, H) uint8 cutouts.
        rows: (k,) indices of those to choose from.
        n: number of videos.
        random: the only source of randomness.
    """
    chosen = rows[torch.randint(len(rows), (n,), generator=random)]
    motions = torch.randint(len(MOTIONS), (n,), generator=random)
    drawn = []
    for row, motion in zip(chosen, motions, strict=True):
        background = backgrounds.paint(backgrounds.draw(random), images.shape[-1], random)
        drawn.append(render(images[row], background, path(MOTIONS[int(motion)], random), SIDE))
    x = torch.stack(drawn)
    return torch.where(torch.rand(n, 1, 1, 1, 1, generator=random) < 0.5, x.flip(-1), x)


def set_moments(vae: AutoencoderKLWan, x: Tensor) -> None:
    """Write the mean and standard deviation of each latent channel into the configuration, where WanPipeline reads them.

    Args:
        vae: as trained.
        x: (n, 3, F, H, W) videos that the moments are computed on.
    """
    latents = encode(vae, x)
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())


def normalise(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """(n, 16, f, h, w) latents with the moments of the configuration taken out: what the transformer sees."""
    mean, std = (torch.tensor(vae.config[name]).view(-1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    return (latents - mean) / std
