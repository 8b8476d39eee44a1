"""Images of emoji on random backgrounds: for training and, with captions of given scenes, for comparison."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import backgrounds
from ..cutouts import Cutouts, place, select, shrink
from ..scenes import Scene, random_scenes, training_captions


def images(cutouts: Cutouts, drawn: Sequence[Scene], side: int, random: torch.Generator) -> Tensor:
    """The real images of scenes: (n, 3, side, side) in [-1, 1].

    Args:
        cutouts: with all emoji of the scenes.
        drawn: the scenes.
        side: of the images in pixels; must divide that of the cutouts.
        random: decides the shades and patterns of backgrounds.
    """
    emoji = select(cutouts, [(scene.name, scene.style) for scene in drawn]).images
    painted = torch.stack([backgrounds.paint(scene.background, emoji.shape[-1], random) for scene in drawn])
    return shrink(place(emoji, painted), side)


def captioned(cutouts: Cutouts, n: int, side: int, random: torch.Generator) -> tuple[Tensor, list[str]]:
    """A training batch of the transformer: (n, 3, side, side) images in [-1, 1] and their captions.

    Only the background differs between two images of an emoji. They are not mirrored, moved or scaled: real images that
    measures compare with are not either.
    """
    drawn = random_scenes(cutouts.names, n, random)
    return images(cutouts, drawn, side, random), training_captions(drawn, random)


def on_backgrounds(emoji: Tensor, random: torch.Generator) -> Tensor:
    """Put each of (n, 4, H, H) cutouts on its own random background: (n, 3, H, H) in [-1, 1]."""
    painted = [backgrounds.paint(backgrounds.draw(random), emoji.shape[-1], random) for _ in emoji]
    return place(emoji, torch.stack(painted))


def without_captions(emoji: Tensor, rows: Tensor, n: int, side: int, random: torch.Generator) -> Tensor:
    """A batch for the autoencoder: (n, 3, side, side) in [-1, 1], about half of them whole, the others crops at full resolution.

    Args:
        emoji: (m, 4, H, H) uint8 cutouts.
        rows: (k,) indices of those to choose from.
        n: number of images.
        side: of the images in pixels; must divide H.
        random: the only source of randomness.
    """
    placed = on_backgrounds(emoji[rows[torch.randint(len(rows), (n,), generator=random)]], random)
    flipped = torch.where(torch.rand(n, 1, 1, 1, generator=random) < 0.5, placed.flip(-1), placed)
    corners = torch.randint(placed.shape[-1] - side + 1, (n, 2), generator=random).tolist()
    cut = torch.stack([image[:, y : y + side, x : x + side] for image, (y, x) in zip(flipped, corners, strict=True)])
    return torch.where(torch.rand(n, 1, 1, 1, generator=random) < 0.5, shrink(flipped, side), cut)
