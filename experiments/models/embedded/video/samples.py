"""Training batches of the transformer: precomputed latents with their captions, all drawn from one random generator."""

import torch
from torch import Tensor

from .. import data as emoji
from ..flux.samples import DROPPED, NAMED
from . import text
from .latents import Latents
from .scenes import Scene


def captioned(latents: Latents, n: int, frames: int, random: torch.Generator) -> tuple[Tensor, list[str]]:
    """A training batch.

    Args:
        latents: the training set.
        n: number of videos.
        frames: of a video; 1 takes first frames as images, whose captions have no motion.
        random: the only source of randomness.

    Returns:
        (n, 16, f, 16, 16) latents and their captions, some of them empty, without a style or without a background.
    """
    chosen = torch.randint(len(latents.scenes), (n,), generator=random)
    unnamed, no_style, empty = torch.rand(3, n, generator=random) < torch.tensor([[1 - NAMED], [DROPPED], [DROPPED]])
    x = latents.values[chosen].float()
    captions = [
        "" if empty[i] else _caption(latents.scenes[row], bool(no_style[i]), frames == 1, bool(unnamed[i]))
        for i, row in enumerate(chosen)
    ]
    return x[:, :, :1] if frames == 1 else x, captions


def _caption(scene: Scene, no_style: bool, no_motion: bool, no_background: bool) -> str:
    return text.caption(
        emoji.concepts()[scene.name],
        None if no_style else scene.style,
        None if no_motion else scene.motion,
        None if no_background else scene.background,
    )
