"""Observations of a study: one number for every prompt, from a cell's images and its control's of the same prompt and seed.

Images of one prompt are not independent, so a prompt is one observation: the mean over its seeds of the difference between the
cell and its control. How much merging changes an image differs from prompt to prompt by a factor that is nearly the same for a
cell and its control. A distance is therefore compared by its ratio to the control's, computed as a difference of logarithms,
which does not depend on that factor.
"""

import math
from collections.abc import Iterable, Mapping

from .inference import bootstrap
from .row import Row

DIFFERENCE, RATIO = "difference", "ratio"


def differences(cell: Iterable[Row], control: Iterable[Row], metric: str, by: str = DIFFERENCE) -> dict[str, float]:
    """By prompt, the mean over seeds of cell minus control, or of the logarithm of their ratio: not finite where one is 0."""
    own, other = values_of(cell, metric, by), values_of(control, metric, by)
    return per_prompt({key: value - other[key] for key, value in own.items() if key in other})  # inf - inf is NaN, and reported


def interval(rows: Iterable[Row], metric: str) -> tuple[float, float, float]:
    """Mean of a metric over the prompts of one cell, with its 95% bootstrap interval; NaN if nothing was measured."""
    return bootstrap(list(per_prompt(values_of(rows, metric)).values()))


def pairs(cell: Iterable[Row], control: Iterable[Row]) -> set[tuple[str, int]]:
    """The prompts and seeds that both have an image of."""
    return {(row.prompt, row.seed) for row in cell} & {(row.prompt, row.seed) for row in control}


def values_of(rows: Iterable[Row], metric: str, by: str = DIFFERENCE) -> dict[tuple[str, int], float]:
    """By prompt and seed, the metric, or its logarithm where it is compared by ratio: minus infinity for 0."""
    size = _logarithm if by == RATIO else float
    return {(row.prompt, row.seed): size(row.metrics[metric]) for row in rows if metric in row.metrics}


def per_prompt(values: Mapping[tuple[str, int], float]) -> dict[str, float]:
    """By prompt, the mean over its seeds."""
    groups: dict[str, list[float]] = {}
    for (prompt, _), value in values.items():
        groups.setdefault(prompt, []).append(value)
    return {prompt: math.fsum(group) / len(group) for prompt, group in groups.items()}


def _logarithm(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf
