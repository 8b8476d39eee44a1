"""What a caption of ``emoji-flux`` describes: an emoji in a style on a background, and the real image that shows it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import data as emoji
from . import backgrounds, text
from .backgrounds import Background
from .data import Cutouts, place, select


@dataclass(frozen=True)
class Scene:
    """One image before it is drawn.

    Args:
        name: of the emoji, such as "red-apple".
        style: "noto", "flat" or "3d".
        background: behind it.
    """

    name: str
    style: str
    background: Background

    def __str__(self) -> str:
        """The whole caption, such as "a noto apple on blue"."""
        return text.caption(emoji.concepts()[self.name], self.style, self.background)

    def foreground(self) -> str:
        """The caption without the background, which is what the text score reads."""
        return text.caption(emoji.concepts()[self.name], self.style)


def scenes(pairs: list[tuple[str, str]], n: int, seed: int) -> list[Scene]:
    """As many scenes, whose (emoji name, style) pairs occur equally often, each with a random background."""
    random = torch.Generator().manual_seed(seed)
    return [Scene(*pairs[i % len(pairs)], backgrounds.draw(random)) for i in range(n)]


def real(cutouts: Cutouts, drawn: list[Scene], seed: int) -> Tensor:
    """The real images of scenes: (n, 3, H, H) uint8, with the cutouts' size.

    Args:
        cutouts: with all emoji of the scenes.
        drawn: the scenes.
        seed: of the shades and patterns of their backgrounds.
    """
    random = torch.Generator().manual_seed(seed)
    images = select(cutouts, [(scene.name, scene.style) for scene in drawn]).images
    painted = torch.stack([backgrounds.paint(scene.background, images.shape[-1], random) for scene in drawn])
    return ((place(images, painted) + 1) * 127.5).round().to(torch.uint8)
