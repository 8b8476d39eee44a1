"""Eight motions, named in captions, and the videos that show them: an emoji moves, its background stays."""

import math

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ....metrics import text
from ..cutouts import shrink

MOTIONS = text.MOTIONS  # the text score must know them, to read a caption without its motion
FRAMES = 9
SIZE = 0.6  # of an emoji whose size stays, as a share of the frame
TRAVEL = 0.45  # of a slide from the middle to either end, in halves of the frame's side
SMALL, LARGE = 0.3, 0.9  # sizes at the ends of growing and shrinking


def path(motion: str, frames: int = FRAMES) -> Tensor:
    """Where an emoji is in every frame.

    The same for all emoji, since a loss that does not know the place tells little about the look.

    Args:
        motion: one of ``MOTIONS``.
        frames: F, at least 2.

    Returns:
        (F, 4): x and y of its centre in [-1, 1], y downwards; clockwise angle in radians; size as a share of the frame.
    """
    time = torch.linspace(0, 1, frames)
    still, size = torch.zeros_like(time), torch.full_like(time, SIZE)
    move, growth = TRAVEL * (2 * time - 1), torch.lerp(torch.tensor(SMALL), torch.tensor(LARGE), time)
    moved = {
        "sliding left": (-move, still, still, size),
        "sliding right": (move, still, still, size),
        "rising": (still, -move, still, size),
        "falling": (still, move, still, size),
        "spinning": (still, still, 2 * math.pi * time, size),
        "growing": (still, still, still, growth),
        "shrinking": (still, still, still, growth.flip(0)),
        "bouncing": (still, TRAVEL * (1 - 2 * torch.sin(2 * math.pi * time).abs()), still, size),
    }
    return torch.stack(moved[motion], dim=1)


def render(cutout: Tensor, background: Tensor, along: Tensor, side: int) -> Tensor:
    """Move a cutout over a background.

    Args:
        cutout: (4, H, H) uint8, red, green, blue and opacity.
        background: (3, K, K) in [0, 1]; frames are drawn at its size, then averaged down.
        along: (F, 4), as :func:`path` gives it.
        side: of the video; must divide K.

    Returns:
        (3, F, side, side) in [-1, 1].
    """
    colour, opacity = (cutout.float() / 255).split([3, 1])
    source = torch.cat([colour * opacity, opacity])  # premultiplied, so that hidden colours do not bleed in at edges
    grid = F.affine_grid(_inverse(along), [len(along), 4, *background.shape[1:]], align_corners=False)
    drawn = F.grid_sample(source.expand(len(along), -1, -1, -1), grid, align_corners=False)
    front, opacity = drawn.split([3, 1], dim=1)
    placed = front + (1 - opacity) * background
    return rearrange(2 * shrink(placed, side) - 1, "f c h w -> c f h w")


def _inverse(along: Tensor) -> Tensor:
    """(F, 2, 3) maps from a frame's coordinates to the cutout's, both in [-1, 1]."""
    x, y, angle, size = along.unbind(1)
    cos, sin = angle.cos() / size, angle.sin() / size
    return torch.stack([cos, sin, -cos * x - sin * y, -sin, cos, sin * x - cos * y], dim=1).view(-1, 2, 3)
