"""The prompt lists of ``emoji-video``: ``python -m mergekit_diff.experiments.models.embedded.video.prompts`` writes them.

Two lists of 64 captions of different concepts, in styles that training has seen them in, every motion eight times; and one
caption of every (concept, style) pair that training never sees. The lists share concepts.
"""

import random

import torch

from ....study.loading import PROMPTS
from .. import backgrounds, cutouts, data
from ..scenes import Scene
from .motions import MOTIONS

CAPTIONS = 64
SEEDS = {"emoji-video-64": 0, "emoji-video-64-b": 1}


def lists() -> dict[str, list[str]]:
    """The captions of every list by name."""
    return {name: _seen(seed) for name, seed in SEEDS.items()} | {"emoji-video-held-out": _held_out()}


def _seen(seed: int) -> list[str]:
    order = random.Random(seed)
    names = order.sample(sorted(data.concepts(trained=True)), CAPTIONS)
    styles = dict.fromkeys(names, ())
    for name, style in cutouts.pairs():
        if name in styles:
            styles[name] += (style,)
    return _captions([(name, order.choice(styles[name])) for name in names], seed)


def _held_out() -> list[str]:
    return _captions(sorted(cutouts.pairs(held_out=True)), seed=2)


def _captions(pairs: list[tuple[str, str]], seed: int) -> list[str]:
    drawn = torch.Generator().manual_seed(seed)
    return [str(Scene(*pair, backgrounds.draw(drawn), MOTIONS[i % len(MOTIONS)])) for i, pair in enumerate(pairs)]


def main() -> None:
    """Write all lists into the package."""
    for name, captions in lists().items():
        (PROMPTS / f"{name}.txt").write_text("".join(f"{line}\n" for line in captions), encoding="utf-8")


if __name__ == "__main__":
    main()
