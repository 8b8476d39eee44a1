"""What a language model has lost by merging what it has read; outputs are :class:`..tasks.reading.Reading`."""

import math

from ..tasks.reading import Reading


def perplexity(reading: Reading, prompt: str) -> float:
    """The exponential of the mean loss of the tokens that followed, at least 1."""
    return math.exp(math.fsum(reading.losses) / len(reading.losses))


def recall(reading: Reading, prompt: str) -> float:
    """The probability, in [0, 1], of a token of the fact when it was asked for: the geometric mean over its last ones."""
    return math.exp(-math.fsum(reading.recalls) / len(reading.recalls))


def agreement(reading: Reading, base: Reading) -> float:
    """Share of the tokens that followed for which the same token was the most likely as in the base, in [0, 1].

    Raises:
        ValueError: other tokens followed.
    """
    if len(reading.guesses) != len(base.guesses):
        raise ValueError(f"agreement: expected as many tokens as the base has, {len(base.guesses)}, got {len(reading.guesses)}")
    return sum(a == b for a, b in zip(reading.guesses, base.guesses, strict=True)) / len(base.guesses)


def cache(reading: Reading, prompt: str) -> float:
    """Share of the keys that was kept in the cache, in [0, 1], with those that always stay."""
    return reading.kept
