"""Agreement of an emoji image with its caption: a linear map from image features to sentence embeddings.

The maps are ridge regressions fitted on some 1,500 captioned emoji (``models/embedded/text_score.py``). An image of a
style is scored by the map that was fitted on the two other styles and has not seen any image of its own, so that the scores
of real images are a fair upper bound. What this does and does not measure:

* A map has seen every concept, in the other styles. The score asks whether a known concept can be recognised.
* It compares with the concept of the caption, never with its style.
* Fluent's flat and 3D emoji are often the same drawing, so flat and 3d score higher than noto: compare within a style.
"""

import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from mergekit_diff.registry import one_of

from . import feature

STYLES = ("noto", "flat", "3d")
MOTIONS = ("sliding left", "sliding right", "rising", "falling", "spinning", "growing", "shrinking", "bouncing")
MAPS = Path(__file__).parent / "data" / "emoji-text.safetensors"
_CAPTION = re.compile(rf"an? (?:({'|'.join(STYLES)}) )?(.+?)(?: (?:{'|'.join(MOTIONS)}))?(?: on .+)?")


def score(image: Tensor, prompt: str) -> float:
    """Cosine in [-1, 1] of a (3, H, W) uint8 image's predicted embedding and its concept's; both are centred.

    A caption without a style takes the mean over the three styles' maps.

    Raises:
        ValueError: the prompt is not a caption of an emoji.
    """
    return float(scores(feature.single(image)[None], [prompt], [parse(prompt, words())[0]]))


def retrieval(features: Tensor, prompts: Sequence[str], candidates: Sequence[str]) -> dict[str, float]:
    """How often the caption's own word has the highest score, or one of the five highest, among candidates.

    Args:
        features: (n, 1280) of images.
        prompts: their n captions.
        candidates: words, including that of every caption.

    Returns:
        "R@1" and "R@5", in [0, 1].
    """
    table = scores(features, prompts, candidates)
    own = torch.tensor([candidates.index(parse(prompt, words())[0]) for prompt in prompts])
    rank = (table > table.gather(1, own[:, None])).sum(1)
    return {f"R@{k}": float((rank < k).double().mean()) for k in (1, 5)}


def scores(features: Tensor, prompts: Sequence[str], candidates: Sequence[str]) -> Tensor:
    """(n, c) scores of n images' features, each by the maps of its caption's style, with c words."""
    weights, known = _weights(), words()
    targets = F.normalize(weights["bank"][[known.index(word) for word in candidates]], dim=1)
    rows = []
    for x, prompt in zip(features.float(), prompts, strict=True):
        style = parse(prompt, known)[1]
        predicted = [F.normalize(x @ weights[f"map.{s}"] + weights[f"offset.{s}"], dim=0) for s in ([style] if style else STYLES)]
        rows.append(torch.stack(predicted).mean(0) @ targets.T)
    return torch.stack(rows)


def parse(prompt: str, possible: Iterable[str]) -> tuple[str, str | None]:
    """The word and the style of a caption such as "a noto apple", "an apple" or "a noto apple sliding left on blue".

    Raises:
        ValueError: it is not such a caption, or its word is not a possible one; the message is one line.
    """
    match = _CAPTION.fullmatch(prompt.strip().lower())
    if match is None:
        raise ValueError(f"text: expected captions of emoji such as 'a noto apple' or 'a cactus', got {prompt!r}")
    return one_of(match[2], possible, "emoji in a caption"), match[1]


@cache
def words() -> list[str]:
    """The words that captions may use, in the order of the bank of embeddings."""
    with safe_open(MAPS, framework="pt") as file:
        return json.loads(file.metadata()["words"])


@cache
def _weights() -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in load_file(MAPS).items()}
