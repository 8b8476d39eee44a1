"""Stage ``vae``: the first embedded model's autoencoder (factor 2), trained on with backgrounds and at 128x128.

The architecture is the same and fully convolutional, so training starts from the shipped weights. About half of each batch
are whole images at 64x64, the others 64x64 crops of 128x128 images, which cost a quarter of whole ones.
"""

from functools import partial
from pathlib import Path

import lightning as L
from diffusers import AutoencoderKL
from torch import Tensor

from .. import cutouts
from ..autoencoder import Autoencoder, psnr, reconstruct, split, train_and_write
from ..export import MODEL
from ..phase import Phase
from ..scenes import seeded
from ..vae import SHOWN, new_vae, normalised
from . import samples

PHASE = Phase("vae", "autoencoder, from that of `emoji`", steps=800, batch=16, rate=4e-4)
SIDE = 64
MEASURED = 1000  # images for the moments of the latents


def train(folder: Path, steps: int | None = None, minutes: float | None = None) -> Path | None:
    """Train, resuming from ``folder``, and write the autoencoder to ``folder/vae``; see :func:`..vae.train_and_write`."""
    L.seed_everything(0)
    emoji = cutouts.load(folder).images
    seen, unseen = split(len(emoji))
    held = placed(emoji[unseen])
    begin = new_vae()
    begin.load_state_dict(shipped())
    sample = partial(samples.without_captions, emoji, seen, PHASE.batch, SIDE)
    module = Autoencoder(begin, sample, held[:SHOWN], folder, PHASE.rate)
    complete = partial(finish, x=placed(emoji[seen[:MEASURED]]))
    return train_and_write(module, steps or PHASE.steps, minutes, complete, partial(psnr_by_size, held=held))


def psnr_by_size(vae: AutoencoderKL, held: Tensor) -> dict[str, float]:
    """Mean PSNR in dB of (n, 3, 128, 128) images in [-1, 1], at both sizes."""
    sizes = {"128x128": held, "64x64": cutouts.shrink(held, SIDE)}
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
    vae.register_to_config(sample_size=cutouts.SIDE, scaling_factor=1.0, shift_factor=0.0)
    return vae


def placed(emoji: Tensor) -> Tensor:
    """Cutouts on backgrounds from a fixed seed, for measurements and sheets: (n, 3, 128, 128) in [-1, 1]."""
    return samples.on_backgrounds(emoji, seeded(0))
