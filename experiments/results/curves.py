"""Curves over the denoising steps, as means over pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from .contents import Row


@dataclass(frozen=True)
class Curve:
    """The mean over pictures at every step, with the ends of its 95% band."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def curve(rows: Sequence[Row], column: str) -> Curve | None:
    """The curve of a column that lists a number a step; None if no row has it. Prompts are the independent observations.

    Args:
        rows: of one cell; lists shorter than the longest, and None in a list, count as not measured.
        column: drift, stale or kept.
    """
    lists = [(row["prompt"], row[column]) for row in rows if row.get(column)]
    if not lists:
        return None
    values = np.full((len(lists), max(len(one) for _, one in lists)), np.nan)
    for i, (_, one) in enumerate(lists):
        values[i, : len(one)] = [np.nan if value is None else float(value) for value in one]
    prompts = np.array([prompt for prompt, _ in lists])
    each = np.stack([_mean(values[prompts == prompt]) for prompt in dict.fromkeys(prompts)])
    mean = _mean(each)
    if len(each) < 2:
        return Curve(mean, mean, mean)
    low, high = stats.bootstrap((each,), _mean, axis=0, n_resamples=999, method="percentile", rng=np.random.default_rng(0)
                                ).confidence_interval  # fmt: skip
    return Curve(mean, low, high)


def jump(mean: np.ndarray) -> tuple[int, float, float]:
    """Step and size of the largest increase from one step to the next, and the median increase; drift starts at 0."""
    rises = np.diff(np.nan_to_num(mean), prepend=0.0)
    step = int(rises.argmax())
    return step, float(rises[step]), float(np.median(rises))


def _mean(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """The mean of what was measured; not a number of nothing, without a warning."""
    count = (~np.isnan(values)).sum(axis)
    return np.where(count, np.nansum(values, axis), np.nan) / np.maximum(count, 1)
