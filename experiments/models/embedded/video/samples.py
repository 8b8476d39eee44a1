"""Videos of emoji moving on random backgrounds: for training and, with captions of given scenes, for comparison."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..backgrounds import Background, draw, paint
from ..cutouts import Cutouts, select
from ..scenes import Scene, random_scenes, training_captions
from .motions import FRAMES, MOTIONS, SIZE, path, render

SIDE = 64


def videos(cutouts: Cutouts, drawn: Sequence[Scene], random: torch.Generator) -> Tensor:
    """The real videos of scenes: (n, 3, 9, 64, 64) in [-1, 1].

    Args:
        cutouts: with all emoji of the scenes.
        drawn: the scenes, each with a motion.
        random: decides shades and patterns of backgrounds.
    """
    emoji = select(cutouts, [(scene.name, scene.style) for scene in drawn]).images
    return torch.stack([_video(image, scene.background, scene.motion, random) for image, scene in zip(emoji, drawn, strict=True)])


def captioned(cutouts: Cutouts, n: int, frames: int, random: torch.Generator) -> tuple[Tensor, list[str]]:
    """A training batch of the transformer: (n, 3, frames, 64, 64) videos in [-1, 1] and their captions.

    Nothing is mirrored: that would turn "sliding left" into its opposite.

    Args:
        cutouts: the emoji to choose from.
        n: number of videos.
        frames: of a video; 1 makes images of emoji in the middle, as large as in most videos, whose captions have no motion.
        random: the only source of randomness.
    """
    drawn = random_scenes(cutouts.names, n, random, MOTIONS)
    if frames == FRAMES:
        return videos(cutouts, drawn, random), training_captions(drawn, random)
    emoji = select(cutouts, [(scene.name, scene.style) for scene in drawn]).images
    x = torch.stack([_still(image, scene.background, random) for image, scene in zip(emoji, drawn, strict=True)])
    return x, training_captions([replace(scene, motion=None) for scene in drawn], random)


def without_captions(emoji: Tensor, rows: Tensor, n: int, random: torch.Generator) -> Tensor:
    """A batch for the autoencoder: (n, 3, 9, 64, 64) videos in [-1, 1] of random emoji in random motion, half of them mirrored.

    Args:
        emoji: (m, 4, H, H) uint8 cutouts.
        rows: (k,) indices of those to choose from.
        n: number of videos.
        random: the only source of randomness.
    """
    chosen = rows[torch.randint(len(rows), (n,), generator=random)]
    motions = torch.randint(len(MOTIONS), (n,), generator=random).tolist()
    x = torch.stack([_video(emoji[row], draw(random), MOTIONS[i], random) for row, i in zip(chosen, motions, strict=True)])
    return torch.where(torch.rand(n, 1, 1, 1, 1, generator=random) < 0.5, x.flip(-1), x)


def _video(image: Tensor, background: Background, motion: str | None, random: torch.Generator) -> Tensor:
    """A video of one cutout, (3, F, 64, 64) in [-1, 1]."""
    assert motion is not None
    painted = paint(background, image.shape[-1], random)
    return render(image, painted, path(motion), SIDE)


def _still(image: Tensor, background: Background, random: torch.Generator) -> Tensor:
    """An image of one cutout in the middle of its background, (3, 1, 64, 64) in [-1, 1]."""
    return render(image, paint(background, image.shape[-1], random), torch.tensor([[0.0, 0.0, 0.0, SIZE]]), SIDE)
