"""What a caption of ``emoji-video`` describes: an emoji in a style and in motion on a background, and the video that shows it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import data as emoji
from ..flux import backgrounds, data
from ..flux import text as still
from ..flux.backgrounds import Background
from ..flux.data import Cutouts
from . import text
from .motions import MOTIONS, path, render

SIDE = 64


@dataclass(frozen=True)
class Scene:
    """One video before it is drawn.

    Args:
        name: of the emoji, such as "red-apple".
        style: "noto", "flat" or "3d".
        motion: one of ``MOTIONS``.
        background: behind it.
    """

    name: str
    style: str
    motion: str
    background: Background

    def __str__(self) -> str:
        """The whole caption, such as "a noto apple sliding left on blue"."""
        return text.caption(emoji.concepts()[self.name], self.style, self.motion, self.background)

    def foreground(self) -> str:
        """The caption without motion and background, which is what the text score reads."""
        return still.caption(emoji.concepts()[self.name], self.style)


def scenes(pairs: list[tuple[str, str]], n: int, random: torch.Generator) -> list[Scene]:
    """As many scenes with (emoji name, style) pairs and motions that occur about equally often, and random backgrounds.

    The first ones go through all pairs, the next as many through all pairs with each one's next motion.
    """
    drawn = []
    for i in range(n):
        turn, row = divmod(i, len(pairs))
        drawn.append(Scene(*pairs[row], MOTIONS[(row + turn) % len(MOTIONS)], backgrounds.draw(random)))
    return drawn


def videos(cutouts: Cutouts, drawn: list[Scene], random: torch.Generator) -> Tensor:
    """The videos of scenes: (n, 3, 9, 64, 64) in [-1, 1].

    Args:
        cutouts: with all emoji of the scenes.
        drawn: the scenes.
        random: decides sizes, places and extents of motions, shades and patterns of backgrounds.
    """
    images = data.select(cutouts, [(scene.name, scene.style) for scene in drawn]).images
    return torch.stack([_video(image, scene, random) for image, scene in zip(images, drawn, strict=True)])


def _video(image: Tensor, scene: Scene, random: torch.Generator) -> Tensor:
    background = backgrounds.paint(scene.background, image.shape[-1], random)
    return render(image, background, path(scene.motion, random), SIDE)
