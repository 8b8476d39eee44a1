"""Stage ``data``: emoji cut out at 128x128, so that training can place them on any background."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from . import data

SIDE = 128


@dataclass(frozen=True)
class Cutouts:
    """Emoji without a background.

    Args:
        images: (n, 4, 128, 128) uint8, red, green, blue and opacity.
        names: emoji name and style of every image, such as ``("red-apple", "noto")``.
    """

    images: Tensor
    names: list[tuple[str, str]]

    def subset(self, rows: list[int]) -> "Cutouts":
        """Only these rows, in this order."""
        return Cutouts(self.images[torch.tensor(rows)], [self.names[row] for row in rows])


def build(folder: Path) -> Path:
    """Rasterise every emoji that exists in all three styles and write ``folder/cutouts.pt``; returns its path."""
    target = folder / "cutouts.pt"
    if not target.exists():
        drawn = data.drawings(folder)
        images = torch.stack([_to_tensor(drawing) for drawing in drawn.values()])
        torch.save({"images": images, "names": list(drawn)}, target)
    return target


def load(folder: Path) -> Cutouts:
    """The cutouts that :func:`build` wrote; images stay on disk until they are used."""
    return Cutouts(**torch.load(build(folder), weights_only=True, mmap=True))


def pairs(*, held_out: bool = False) -> list[tuple[str, str]]:
    """(emoji name, style) pairs that the transformer is trained on, or those held out."""
    unseen = data.held_out()
    trained = [(name, style) for name in data.concepts(trained=True) for style in data.STYLES]
    return [pair for pair in trained if (pair in unseen) == held_out]


def select(cutouts: Cutouts, chosen: list[tuple[str, str]]) -> Cutouts:
    """The cutouts of some (emoji name, style) pairs, in their order.

    Raises:
        ValueError: a pair is not among the cutouts.
    """
    rows = {pair: row for row, pair in enumerate(cutouts.names)}
    if missing := [pair for pair in chosen if pair not in rows]:
        raise ValueError(f"expected cutouts of all {len(chosen)} pairs, got none of {missing[0]} and {len(missing) - 1} others")
    return cutouts.subset([rows[pair] for pair in chosen])


def place(images: Tensor, backgrounds: Tensor) -> Tensor:
    """Put cutouts on backgrounds.

    Args:
        images: (n, 4, H, W) uint8 cutouts.
        backgrounds: (n, 3, H, W) in [0, 1].

    Returns:
        (n, 3, H, W) in [-1, 1].
    """
    colour, opacity = (images.float() / 255).split([3, 1], dim=1)
    return 2 * torch.lerp(backgrounds, colour, opacity) - 1


def shrink(images: Tensor, side: int) -> Tensor:
    """Average (n, 3, H, H) images down to (n, 3, side, side); ``side`` must divide H."""
    return F.avg_pool2d(images, images.shape[-1] // side)


def _to_tensor(drawing: Image.Image) -> Tensor:
    small = drawing.convert("RGBA").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()
