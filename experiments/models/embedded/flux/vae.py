"""Stage ``vae``: the first embedded model's autoencoder (factor 2), trained on with backgrounds and at 128x128.

The architecture is the same and fully convolutional, so training starts from the shipped weights. About half of each batch
are whole images at 64x64, the others 64x64 crops of 128x128 images, which cost a quarter of whole ones.
"""

from functools import partial
from pathlib import Path

import lightning as L
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.utils.data import DataLoader

from ..export import MODEL
from ..training import fit
from ..vae import BATCH, SHOWN, Autoencoder, new_vae, normalised, psnr, reconstruct, split
from . import data, samples

SIDE = 64
RATE = 4e-4
STEPS = 800
KEEP_EVERY = 50  # steps between checkpoints


def train(folder: Path, steps: int) -> Path:
    """Train for ``steps`` batches of 16, resuming from ``folder``, and write the autoencoder to ``folder/vae``."""
    L.seed_everything(0)
    images = data.load(folder).images
    seen, unseen = split(len(images))
    sample = partial(samples.without_captions, images, seen, BATCH, SIDE)
    held = placed(images[unseen])
    begin = new_vae()
    begin.load_state_dict(shipped())
    module = Autoencoder(begin, sample, held[:SHOWN], folder, RATE)
    fit(module, DataLoader(torch.arange(steps)), steps, folder, "vae", KEEP_EVERY)
    vae = finish(module.ema.model, placed(images[seen[:1000]]))
    for name, value in psnr_by_size(vae, held).items():
        print(f"PSNR on {len(held)} held-out images, {name}: {value:.2f} dB")
    vae.save_pretrained(folder / "vae", safe_serialization=True)
    return folder / "vae"


def psnr_by_size(vae: AutoencoderKL, held: Tensor) -> dict[str, float]:
    """Mean PSNR in dB of (n, 3, 128, 128) images in [-1, 1], at both sizes."""
    sizes = {"128x128": held, "64x64": data.shrink(held, SIDE)}
    return {name: psnr(x, reconstruct(vae, x)) for name, x in sizes.items()}


def shipped() -> dict[str, Tensor]:
    """The weights of the first embedded model's autoencoder."""
    return AutoencoderKL.from_pretrained(MODEL / "vae").float().state_dict()


def finish(vae: AutoencoderKL, x: Tensor) -> AutoencoderKL:
    """Fold the latents' moments into the weights, and set the configuration that FluxPipeline reads.

    Args:
        vae: as trained.
        x: (n, 3, H, W) images that the moments are computed on.
    """
    vae = normalised(vae, x)
    vae.register_to_config(sample_size=data.SIDE, scaling_factor=1.0, shift_factor=0.0)
    return vae


def placed(images: Tensor) -> Tensor:
    """Cutouts on backgrounds from a fixed seed, for measurements and sheets: (n, 3, 128, 128) in [-1, 1]."""
    return samples.on_backgrounds(images, torch.Generator().manual_seed(0))[0]
