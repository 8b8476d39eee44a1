"""Curves over the denoising steps, as means over images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .row import Row


@dataclass(frozen=True)
class Curve:
    """The mean over images at every step, with the ends of its 95% band."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def mean_curve(rows: Sequence[Row], column: str) -> np.ndarray | None:
    """The mean at every step of a column with one number for each step; None if no row has it. Arguments as :func:`curve`."""
    prompts = _by_prompt(rows, column)
    return None if prompts is None else _mean(prompts)


def curve(rows: Sequence[Row], column: str) -> Curve | None:
    """The mean curve with its band, bootstrapped over prompts, which are the independent observations.

    Args:
        rows: of one cell; lists shorter than the longest, and None in a list, count as not measured.
        column: drift, stale or kept.
    """
    from scipy import stats

    prompts = _by_prompt(rows, column)
    if prompts is None:
        return None
    mean = _mean(prompts)
    if len(prompts) < 2:
        return Curve(mean, mean, mean)
    low, high = stats.bootstrap((prompts,), _mean, axis=0, n_resamples=999, method="percentile", rng=np.random.default_rng(0)
                                ).confidence_interval  # fmt: skip
    return Curve(mean, low, high)


def jump(mean: np.ndarray) -> tuple[int, float, float]:
    """Step and size of the largest increase from one step to the next, and the median increase; drift starts at 0."""
    increases = np.diff(np.nan_to_num(mean), prepend=0.0)
    step = int(increases.argmax())
    return step, float(increases[step]), float(np.median(increases))


def _by_prompt(rows: Sequence[Row], column: str) -> np.ndarray | None:
    """(prompts, steps): means over the seeds of a prompt; None if no row has the column."""
    lists = [(row.prompt, getattr(row, column)) for row in rows if getattr(row, column)]
    if not lists:
        return None
    values = np.full((len(lists), max(len(numbers) for _, numbers in lists)), np.nan)
    for i, (_, numbers) in enumerate(lists):
        values[i, : len(numbers)] = [np.nan if value is None else float(value) for value in numbers]
    prompts = np.array([prompt for prompt, _ in lists])
    return np.stack([_mean(values[prompts == prompt]) for prompt in dict.fromkeys(prompts)])


def _mean(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """The mean without NaN; NaN where there is nothing else, without a warning."""
    count = (~np.isnan(values)).sum(axis)
    return np.where(count, np.nansum(values, axis), np.nan) / np.maximum(count, 1)
