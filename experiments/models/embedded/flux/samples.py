"""Training batches of both stages: captioned emoji on random backgrounds, all drawn from one random generator."""

import torch
from torch import Tensor

from .. import data as emoji
from . import backgrounds, text
from .data import Cutouts, place, shrink

NAMED = 0.5  # share of captions that name the background
DROPPED = 0.1  # share of captions without a style, and of empty captions


def on_backgrounds(images: Tensor, random: torch.Generator) -> tuple[Tensor, list[backgrounds.Background]]:
    """Put each of (n, 4, H, H) cutouts on its own random background: (n, 3, H, H) in [-1, 1], and the backgrounds."""
    drawn = [backgrounds.draw(random) for _ in images]
    painted = torch.stack([backgrounds.paint(one, images.shape[-1], random) for one in drawn])
    return place(images, painted), drawn


def captioned(cutouts: Cutouts, n: int, side: int, random: torch.Generator) -> tuple[Tensor, list[str]]:
    """A training batch.

    Args:
        cutouts: the emoji to choose from.
        n: number of images.
        side: of the images in pixels; must divide the side of the cutouts.
        random: the only source of randomness.

    Returns:
        (n, 3, side, side) images in [-1, 1] and their captions, some of them empty, without a style or without a background.
    """
    chosen = torch.randint(len(cutouts.names), (n,), generator=random)
    images, drawn = on_backgrounds(cutouts.images[chosen], random)
    unnamed, no_style, empty = torch.rand(3, n, generator=random) < torch.tensor([[1 - NAMED], [DROPPED], [DROPPED]])
    words = emoji.concepts()
    captions = []
    for i, row in enumerate(chosen):
        name, style = cutouts.names[row]
        full = text.caption(words[name], None if no_style[i] else style, None if unnamed[i] else drawn[i])
        captions.append("" if empty[i] else full)
    return shrink(images, side), captions


def without_captions(images: Tensor, rows: Tensor, n: int, side: int, random: torch.Generator) -> Tensor:
    """A batch for the autoencoder: (n, 3, side, side) in [-1, 1], about half of them whole, the others crops at full resolution.

    Args:
        images: (m, 4, H, H) uint8 cutouts.
        rows: (k,) indices of those to choose from.
        n: number of images.
        side: of the images in pixels; must divide H.
        random: the only source of randomness.
    """
    chosen = rows[torch.randint(len(rows), (n,), generator=random)]
    placed, _ = on_backgrounds(images[chosen], random)
    flipped = torch.where(torch.rand(n, 1, 1, 1, generator=random) < 0.5, placed.flip(-1), placed)
    corners = torch.randint(placed.shape[-1] - side + 1, (n, 2), generator=random).tolist()
    cut = torch.stack([image[:, y : y + side, x : x + side] for image, (y, x) in zip(flipped, corners, strict=True)])
    return torch.where(torch.rand(n, 1, 1, 1, generator=random) < 0.5, shrink(flipped, side), cut)
