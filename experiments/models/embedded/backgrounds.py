"""Backgrounds: plain colours, gradients and simple textures, each drawn from a random generator and named in words.

A white background is cheap to merge and flatters every strategy, so only about a quarter of all backgrounds are white.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

COLOURS = {
    "white": (1.0, 1.0, 1.0),
    "black": (0.1, 0.1, 0.1),
    "gray": (0.55, 0.55, 0.55),
    "red": (0.85, 0.2, 0.2),
    "orange": (0.95, 0.6, 0.2),
    "yellow": (0.95, 0.85, 0.3),
    "green": (0.3, 0.7, 0.35),
    "teal": (0.2, 0.65, 0.65),
    "blue": (0.25, 0.45, 0.85),
    "purple": (0.55, 0.35, 0.75),
    "pink": (0.95, 0.65, 0.75),
    "brown": (0.55, 0.38, 0.25),
}
SHARES = {"plain": 0.4, "gradient": 0.2, "stripes": 0.1, "checks": 0.1, "dots": 0.1, "clouds": 0.1}
WHITE = 0.2  # share of backgrounds whose colour is white, beyond its part in the even draw
JITTER = 0.04  # standard deviation of a colour's channels
PHRASES = {"plain": "on {}", "gradient": "on a {} gradient", "stripes": "on {} stripes", "checks": "on {} checks",
           "dots": "on {} dots", "clouds": "on {} clouds"}  # fmt: skip


@dataclass(frozen=True)
class Background:
    """A background before it is painted.

    Args:
        kind: a key of ``PHRASES``.
        colour: a key of ``COLOURS``: the main colour.
    """

    kind: str
    colour: str

    def __str__(self) -> str:
        """As captions name it, such as "on blue stripes"."""
        return PHRASES[self.kind].format(self.colour)


def draw(random: torch.Generator) -> Background:
    """A random background."""
    kind = list(SHARES)[int(torch.multinomial(torch.tensor(list(SHARES.values())), 1, generator=random))]
    colour = list(COLOURS)[int(torch.randint(len(COLOURS), (1,), generator=random))]
    return Background(kind, "white" if float(torch.rand((), generator=random)) < WHITE else colour)


def paint(background: Background, side: int, random: torch.Generator) -> Tensor:
    """(3, side, side) in [0, 1]: the named colour and a lighter or darker shade of it, in the pattern of the kind."""
    first = torch.tensor(COLOURS[background.colour])
    if background.colour != "white":
        first = (first + JITTER * torch.randn(3, generator=random)).clamp(0, 1)
    towards = 1.0 if float(first.mean()) < 0.5 else 0.0
    second = torch.lerp(first, torch.full((3,), towards), _between(0.2, 0.45, random))
    pattern = PATTERNS[background.kind](side, random)
    return torch.lerp(first[:, None, None], second[:, None, None], pattern)


def words() -> set[str]:
    """Every single word of the names of backgrounds."""
    return {word for kind in PHRASES for colour in COLOURS for word in str(Background(kind, colour)).split()}


def _plain(side: int, random: torch.Generator) -> Tensor:
    return torch.zeros(side, side)


def _gradient(side: int, random: torch.Generator) -> Tensor:
    x, _ = _turned(side, random)
    return (x - x.min()) / (x.max() - x.min())


def _stripes(side: int, random: torch.Generator) -> Tensor:
    x, _ = _turned(side, random)
    return _edge(_wave(x, _period(random), random), side)


def _checks(side: int, random: torch.Generator) -> Tensor:
    x, y = _turned(side, random)
    period = _period(random)
    return _edge(_wave(x, period, random) * _wave(y, period, random), side)


def _dots(side: int, random: torch.Generator) -> Tensor:
    x, y = _turned(side, random)
    period = _period(random)
    return _edge((_wave(x, period, random) + _wave(y, period, random)) / 2 - 0.45, side)


def _clouds(side: int, random: torch.Generator) -> Tensor:
    coarse = torch.rand(1, 1, 5, 5, generator=random)
    return F.interpolate(coarse, (side, side), mode="bicubic", align_corners=True)[0, 0].clamp(0, 1)


PATTERNS: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "plain": _plain,
    "gradient": _gradient,
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "clouds": _clouds,
}


def _turned(side: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Coordinates of the pixels along two axes at a random angle, in units of the image's side."""
    angle = _between(0, math.pi, random)
    y, x = torch.meshgrid(*[(torch.arange(side) + 0.5) / side] * 2, indexing="ij")
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


def _period(random: torch.Generator) -> float:
    return _between(0.15, 0.35, random)


def _wave(x: Tensor, period: float, random: torch.Generator) -> Tensor:
    return torch.sin(2 * math.pi * (x / period + _between(0, 1, random)))


def _edge(wave: Tensor, side: int) -> Tensor:
    """0 where a wave is negative, 1 where it is positive, with a soft edge about a pixel wide."""
    return (0.5 + wave * side / 40).clamp(0, 1)


def _between(low: float, high: float, random: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=random))
