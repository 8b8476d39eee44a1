"""What a language model expects of a passage of which it has read, and merged, the beginning."""

import copy
import hashlib
import random
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

PASSAGES = Path(__file__).parent / "data" / "python-topics.txt"
"""One a line, from the documentation of Python 3.11: (c) Python Software Foundation, whose licence is beside the file."""
DIGEST = "f40a3bf4a5cc54d0dcf7a21a8ff911209adf312efd738f75bf93b684b4918e7f"
PROMPT = re.compile(r"^passage ([1-9]\d*)$")
PLACES = ("harbour", "library", "station", "museum", "theatre", "market", "castle", "bakery")


@dataclass(frozen=True)
class Reading:
    """What a model expected after the beginning of a passage.

    Args:
        losses: of every token that followed, the negative logarithm of its probability.
        guesses: for each of them, the number of the token that was the most likely.
        fact: what was said somewhere in the beginning.
        answer: when it was asked for, the most likely tokens in place of its last ones.
        recalls: the negative logarithms of the probabilities of these last tokens.
        kept: keys in the cache after the beginning, as a share of its tokens; mean over layers.
    """

    losses: list[float]
    guesses: list[int]
    fact: str
    answer: str
    recalls: list[float]
    kept: float


@torch.no_grad()
def read(pipe: Any, prompt: str, seed: int) -> Reading:  # noqa: ANN401
    """Read the beginning of a passage in one call, a fact hidden in it; then what follows, and apart from that the fact's end.

    Args:
        pipe: a language model: ``transformer``, ``encode``, ``decode``, ``device``, and how many tokens the ``beginning`` and the
            ``rest`` have.
        prompt: which passage.
        seed: decides the fact and its place.

    Raises:
        ValueError: the passage has too few tokens.
    """
    draw, tokens = random.Random(seed), pipe.encode(passage(prompt))
    if len(tokens) < pipe.beginning + pipe.rest:
        raise ValueError(f"expected a passage of {pipe.beginning + pipe.rest} tokens, got {len(tokens)}")
    question, number = f" The code of the {draw.choice(PLACES)} is", f" {draw.randrange(1000, 10000)}"
    said, asked, wanted = (pipe.encode(text) for text in (f"{question}{number}.", question, number))
    place, end = draw.randrange(pipe.beginning // 8, pipe.beginning // 2), pipe.beginning - len(said)
    *start, last = [*tokens[:place], *said, *tokens[place:end]]
    following = tokens[end : end + pipe.rest]
    held = _cache(pipe, start)
    kept = sum(layer.keys.shape[-2] for layer in held.layers) / len(held.layers) / len(start)
    expected = _expected(pipe, copy.deepcopy(held), [last, *following])
    recalled = _expected(pipe, held, [last, *asked, *wanted])[-len(wanted) :]
    answer = pipe.decode(recalled.argmax(-1).tolist()).strip()
    losses, recalls = _losses(expected, following), _losses(recalled, wanted)
    return Reading(losses, expected.argmax(-1).tolist(), f"{question}{number}.".strip(), answer, recalls, round(kept, 6))


def passage(prompt: str) -> str:
    """The text of a passage.

    Raises:
        ValueError: there is no such passage.

    >>> passage("passage 2")[:28]
    'Calls ***** A call calls a c'
    """
    found, known = PROMPT.match(prompt), passages()
    if found is None or int(found[1]) > len(known):
        raise ValueError(f"prompts: expected 'passage N' with N from 1 to {len(known)}, got {prompt!r}")
    return known[int(found[1]) - 1]


@cache
def passages() -> tuple[str, ...]:
    """All of them.

    Raises:
        ValueError: the file was changed, so that no number would compare with others.
    """
    content = PASSAGES.read_bytes()
    if hashlib.sha256(content).hexdigest() != DIGEST:
        raise ValueError(f"expected the passages that this version was released with in {PASSAGES}, got others")
    return tuple(content.decode().splitlines())


def _cache(pipe: Any, tokens: Sequence[int]) -> Any:  # noqa: ANN401
    """The cache of a model that has read some tokens in one call."""
    from transformers import DynamicCache

    held = DynamicCache()
    _call(pipe, held, tokens)
    return held


def _expected(pipe: Any, held: Any, tokens: Sequence[int]) -> Tensor:  # noqa: ANN401
    """(n - 1, words) logarithms of probabilities of what comes after each token but the last."""
    return F.log_softmax(_call(pipe, held, tokens)[:-1].float(), -1)


def _call(pipe: Any, held: Any, tokens: Sequence[int]) -> Tensor:  # noqa: ANN401
    words = torch.tensor([list(tokens)], device=pipe.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer releases of transformers call past_key_values "cache"
        return pipe.transformer(words, past_key_values=held, use_cache=True).logits[0].cpu()


def _losses(expected: Tensor, tokens: Sequence[int]) -> list[float]:
    losses = -expected.gather(1, torch.tensor(list(tokens))[:, None])[:, 0]
    return [round(loss, 6) for loss in losses.tolist()]
