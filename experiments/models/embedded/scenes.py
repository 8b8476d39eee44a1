"""What a caption describes: an emoji in a style, on a background, in a video also in motion."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from . import backgrounds, captions, data
from .backgrounds import Background

NAMED = 0.5  # share of training captions that name the background
DROPPED = 0.1  # share of those without a style, and of empty ones

Pair = tuple[str, str]
"""Emoji name and style."""


@dataclass(frozen=True)
class Scene:
    """One image or video before it is drawn.

    Args:
        name: of the emoji, such as "red-apple".
        style: "noto", "flat" or "3d".
        background: behind it.
        motion: of the emoji; None in an image.
    """

    name: str
    style: str
    background: Background
    motion: str | None = None

    def __str__(self) -> str:
        """The whole caption, such as "a noto apple sliding left on blue"."""
        return captions.caption(data.concepts()[self.name], self.style, self.motion, self.background)

    def foreground(self) -> str:
        """The caption without motion and background, which is what the text score reads."""
        return captions.caption(data.concepts()[self.name], self.style)


def scenes(pairs: Sequence[Pair], n: int, random: torch.Generator, motions: Sequence[str] = ()) -> list[Scene]:
    """As many scenes, in which pairs and motions occur about equally often, each with a random background.

    The first ones go through all pairs, the next as many through all pairs with each one's next motion.
    """
    drawn = []
    for i in range(n):
        turn, row = divmod(i, len(pairs))
        motion = motions[(row + turn) % len(motions)] if motions else None
        drawn.append(Scene(*pairs[row], backgrounds.draw(random), motion))
    return drawn


def random_scenes(pairs: Sequence[Pair], n: int, random: torch.Generator, motions: Sequence[str] = ()) -> list[Scene]:
    """As many scenes for training, each with a random pair, motion and background."""
    rows = torch.randint(len(pairs), (n,), generator=random).tolist()
    moved = torch.randint(max(1, len(motions)), (n,), generator=random).tolist()
    return [
        Scene(*pairs[row], background=backgrounds.draw(random), motion=motions[i] if motions else None)
        for row, i in zip(rows, moved, strict=True)
    ]


def training_captions(drawn: Sequence[Scene], random: torch.Generator) -> list[str]:
    """Captions of scenes, some of them without the background, without the style, or empty, which is what guidance needs."""
    words, n = data.concepts(), len(drawn)
    unnamed, no_style, empty = torch.rand(3, n, generator=random) < torch.tensor([[1 - NAMED], [DROPPED], [DROPPED]])
    return [
        ""
        if empty[i]
        else captions.caption(
            words[scene.name],
            None if no_style[i] else scene.style,
            scene.motion,
            None if unnamed[i] else scene.background,
        )
        for i, scene in enumerate(drawn)
    ]


def numbered(drawn: Iterable[Scene]) -> list[tuple[str, int]]:
    """Caption and seed of every scene; the seeds differ, so that equal scenes have different outputs."""
    return [(str(scene), row) for row, scene in enumerate(drawn)]


def seeded(seed: int) -> torch.Generator:
    """A random generator."""
    return torch.Generator().manual_seed(seed)
