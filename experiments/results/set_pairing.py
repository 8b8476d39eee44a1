"""A cell's set of images against its control's: how much farther it is from real images, with both drawn from the same prompts.

The distance of a set to real images depends most on which prompts it shows. A cell and its control show the same ones, so their
difference is far better known than either distance: prompts are resampled for both at once, and the test swaps the two images
of a prompt. The features are those that rows keep, projected: on the quickstart's images, differences from the base had the order
of those of whole features, and 0.8 times their size in the two worst cells.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from einops import reduce
from numpy.typing import NDArray

from .inference import RESAMPLES
from .row import Row

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SetDifference:
    """The kernel distance of a cell to real images minus that of its control.

    Args:
        prompts: independent observations.
        effect: cell minus control.
        resampled: (RESAMPLES,) the same for prompts drawn with replacement, the same ones on both sides; NaN where one image was
            drawn throughout.
        p: of the permutation test that swaps cell and control within prompts, two-sided.
    """

    prompts: int
    effect: float
    resampled: Array
    p: float

    @property
    def interval(self) -> tuple[float, float]:
        """95% percentile interval of the bootstrap, centred on the effect."""
        centred = self.resampled - np.nanmean(self.resampled) + self.effect
        low, high = np.nanquantile(centred, [0.025, 0.975])
        return float(low), float(high)


def kid_difference(cell: Sequence[Row], control: Sequence[Row], reference: Array | None) -> SetDifference:
    """Compare the kernel distances of two cells (:func:`mergekit_diff.experiments.metrics.sets.kid`) on the features in rows.

    Args:
        cell: rows with features.
        control: rows with features; only images of the same prompt and seed count.
        reference: (m, d) projected features of real images, see :mod:`mergekit_diff.experiments.metrics.projection`.

    Raises:
        ValueError: :func:`why_not` has a reason.
    """
    reason = why_not(cell, control, reference)
    if reason or reference is None:
        raise ValueError(reason)
    both = _common(cell, control)
    common = list(both)
    prompts = list(dict.fromkeys(prompt for prompt, _ in common))
    x, y = (np.stack([pair[side].feature_vectors() for pair in both.values()]) for side in (0, 1))
    of_prompt = np.array([prompts.index(prompt) for prompt, _ in common])
    kernels = _Kernels(np.concatenate([x, y]), reference)
    draw = np.random.default_rng(0)
    counts = draw.multinomial(len(prompts), np.full(len(prompts), 1 / len(prompts)), RESAMPLES)[:, of_prompt].astype(float)
    swaps = draw.integers(0, 2, (RESAMPLES, len(prompts)))[:, of_prompt].astype(float)
    effect = float(kernels.difference(np.ones((1, len(common))), np.zeros((1, len(common))))[0])
    flipped = kernels.difference(1 - swaps, swaps)
    p = float((np.abs(flipped) >= abs(effect) * (1 - 1e-12)).sum() + 1) / (RESAMPLES + 1)
    return SetDifference(len(prompts), effect, kernels.difference(counts, np.zeros_like(counts)), p)


def why_not(cell: Iterable[Row], control: Iterable[Row], reference: Array | None) -> str:
    """Why two sets cannot be compared; empty if they can."""
    if reference is None:
        return "no real images to compare with"
    both = _common(cell, control)
    prompts = {prompt for prompt, _ in both}
    if len(prompts) < 2:
        return f"{len(prompts)} prompts in common"
    rows = [row for pair in both.values() for row in pair]
    if not all(row.features for row in rows):
        return "rows without image features"
    return "" if len({len(row.features) for row in rows}) == 1 else "different numbers of frames"


def _common(cell: Iterable[Row], control: Iterable[Row]) -> dict[tuple[str, int], tuple[Row, Row]]:
    """By prompt and seed, the rows of both."""
    other = {(row.prompt, row.seed): row for row in control}
    return {key: (row, other[key]) for row in cell if (key := (row.prompt, row.seed)) in other}


class _Kernels:
    """The kernels of the images of both cells, first the cell's and then the control's, among themselves and with real ones.

    Args:
        both: (2n, F, d) features; the kernels of videos are means over their frames.
        reference: (m, d) features of the real images.
    """

    def __init__(self, both: Array, reference: Array) -> None:
        n, _, width = both.shape
        frames = both.reshape(-1, width)
        self.within = reduce((frames @ frames.T / width + 1) ** 3, "(a f) (b g) -> a b", "mean", a=n, b=n)
        self.across = reduce((frames @ reference.T / width + 1) ** 3, "(a f) m -> a", "mean", a=n)

    def difference(self, kept: Array, swapped: Array) -> Array:
        """(B,) distance of the cell minus that of the control; the term of the real images alone cancels.

        Args:
            kept: (B, n) how often each pair of images counts.
            swapped: (B, n) how often it counts with cell and control exchanged.
        """
        return self._distance(np.concatenate([kept, swapped], 1)) - self._distance(np.concatenate([swapped, kept], 1))

    def _distance(self, counts: Array) -> Array:
        """Unbiased, but for the real images' own term: an image is never paired with itself or its own copy."""
        total = counts.sum(1)
        pairs = total**2 - (counts**2).sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            within = (((counts @ self.within) * counts).sum(1) - counts**2 @ self.within.diagonal()) / pairs
        return within - 2 * (counts @ self.across) / total
