"""Two prompt lists that share no concept, so that what one of them shows can be confirmed on the other.

``python -m mergekit_diff.experiments.models.embedded.looks`` writes them. Each has a half of the concepts that the denoiser was
trained on, and only styles that training has seen. Every concept occurs once, flat or 3D but never both, since these are often
the same drawing; some also occur as Noto, so that the styles are about as frequent as each other.
"""

import random
from collections import Counter

from ...study.loading import PROMPTS
from .data import concepts, held_out
from .text import caption

SEED = 3
"""The first seed whose halves share no word either, such as the "tree" of pine tree and palm tree."""
CAPTIONS = 64


def looks(seed: int = SEED) -> dict[str, list[str]]:
    """The captions of both lists by name.

    Args:
        seed: of the halves, the styles and the order.
    """
    names, draw = sorted(concepts(trained=True)), random.Random(seed)
    draw.shuffle(names)
    half = len(names) // 2
    return {f"emoji-look-{i}": _captions(part, draw) for i, part in enumerate((names[:half], names[half:]), 1)}


def _captions(names: list[str], draw: random.Random) -> list[str]:
    words, unseen, drawn = concepts(), held_out(), Counter[str]()
    twice = [name for name in names if (name, "noto") not in unseen][: CAPTIONS - len(names)]
    pairs = [(name, "noto") for name in twice]
    for name in names:
        style = min((style for style in ("flat", "3d") if (name, style) not in unseen), key=drawn.__getitem__)
        drawn[style] += 1
        pairs.append((name, style))
    draw.shuffle(pairs)
    return [caption(words[name], style) for name, style in pairs]


def main() -> None:
    """Write both lists into the package."""
    for name, captions in looks().items():
        (PROMPTS / f"{name}.txt").write_text("".join(f"{line}\n" for line in captions), encoding="utf-8")


if __name__ == "__main__":
    main()
