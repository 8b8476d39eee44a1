"""Operations of one denoising step of a large model under merging, as a share of those of the base.

They are counted on the real hooked model by shapes alone, so that nothing is computed. What a layer computes grows at most with
the square of the tokens that it gets; the count of a step is therefore a polynomial of degree two in the share of tokens that
merging keeps, and the counts at three shares give it exactly, for every share and for their mean over the steps.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np

from mergekit_diff.sites import Site, find_sites

from .config import Bench
from .instruments import Operations
from .peers import floor, hooked
from .subject import Subject, subject

COUNTED = (1.0, 0.5, 0.25)
"""The shares of tokens kept that are counted: whole numbers of tokens on every level."""


def step_share(roles: Sequence[str], levels: int | None, kept: Sequence[float], bench: Bench) -> float:
    """Mean over the steps of their operations, as a share of those of a step without merging; planning is not counted.

    Args:
        roles: what runs on merged tokens.
        levels: on how many of the finest grids; None: on all.
        kept: share of the tokens that is kept, in (0, 1], for every step; the same at all sites.
        bench: the model and its input.

    >>> emoji = Bench(size="emoji", at="step")
    >>> round(step_share(["self_attention"], 1, [1.0, 1.0], emoji), 9)
    1.0
    >>> changing = step_share(["self_attention"], 1, [0.25, 0.75], emoji)
    >>> changing > step_share(["self_attention"], 1, [0.5], emoji)  # attention is quadratic
    True
    """
    coefficients = _polynomial(tuple(sorted(roles)), levels, *_shape(bench))
    return float(np.polyval(coefficients, kept).mean())


def blocks_share(levels: int | None, bench: Bench) -> float:
    """The share of the operations of a step without merging that the blocks of the finest ``levels`` grids do; None: of all."""
    return _blocks(levels, *_shape(bench))


def sites_of_a_grid(levels: int | None, bench: Bench) -> float:
    """How many of these blocks have the same grid, mean over the grids: with ``share="grid"`` they have one plan."""
    sites = _sites(_step(*_shape(bench)), levels)
    return len(sites) / len({site.level for site in sites})


def _shape(bench: Bench) -> tuple[str, int | None]:
    """What is counted once and remembered."""
    return bench.size, bench.pixels


@cache
def _polynomial(roles: tuple[str, ...], levels: int | None, size: str, pixels: int | None) -> np.ndarray:
    """Its coefficients, the highest power first."""
    counts = [_count(roles, levels, kept, size, pixels) for kept in COUNTED]
    return np.polyfit(COUNTED, [count / counts[0] for count in counts], len(COUNTED) - 1)


@cache
def _blocks(levels: int | None, size: str, pixels: int | None) -> float:
    step = _step(size, pixels)
    inside, whole = Operations(*(site.block for site in _sites(step, levels))), Operations(step.model)
    for counter in (inside, whole):
        with counter.counting():
            step.call()
    return inside.total / whole.total


@cache
def _step(size: str, pixels: int | None) -> Subject:
    return subject(Bench(size=size, at="step", pixels=pixels), "meta")


def _count(roles: tuple[str, ...], levels: int | None, kept: float, size: str, pixels: int | None) -> int:
    step = _step(size, pixels)
    finest = len(_sites(step, None)) if levels is None else levels
    counter = Operations(step.model)
    with hooked(step.model, roles, finest, floor(1 - kept)), counter.counting():
        step.call()
    return counter.total


def _sites(step: Subject, levels: int | None) -> list[Site]:
    return [site for site in find_sites(step.model) if levels is None or site.level < levels]
