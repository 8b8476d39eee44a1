"""Cells against their controls, over the same prompts and seeds, and the verdict.

What one observation is, and why distances are compared by ratio, is said in :mod:`.pairing`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from ..metrics import metrics
from .inference import bootstrap, detectable, holm, least_p, sign_flip
from .pairing import DIFFERENCE, RATIO, differences, pairs
from .row import REPEAT, Row, by_cell
from .set_pairing import Array, kid_difference, why_not

BETTER, WORSE, SAME = "better", "worse", "the same within the margin"
UNSURE, NOT_COMPARABLE, AGAIN = "can't tell at this n", "not comparable", "the same cell again"
ALPHA = 0.05
GRANTED_APART = 0.01
BESIDE = "psnr"
"""What stands beside a verdict: it knows no network, so it shares no blind spot with the other metrics."""


@dataclass(frozen=True)
class Comparison:
    """A cell against its control on one metric.

    Args:
        cell: name of the cell.
        against: name of the control.
        metric: the metric that is compared.
        by: "difference" or "ratio", see :class:`.metrics.Metric`.
        n: pairs of images of the same prompt and seed.
        prompts: independent observations.
        effect: mean over the prompts of cell minus control, or geometric mean of cell / control; for a metric of sets, the
            difference of the two sets' values.
        low: lower end of its 95% bootstrap interval, not corrected for the number of cells.
        high: upper end.
        p: of the sign-flip test over prompts, two-sided.
        p_holm: the same, corrected for the number of cells that are compared.
        visible: the smallest difference, or ratio above 1, that this many prompts show in four of five studies, see
            :func:`.inference.detectable`.
        verdict: "better", "worse", "can't tell at this n", "the same within the margin" where a margin was named before the run
            and the interval lies inside it, or "not comparable: ..." with the reason. A cell that repeats another with other
            random numbers has "the same cell again".
        least: whether p is the smallest that the test can give, and p_holm thus an upper bound.
        within_repeat: whether the effect is no larger than that of the largest such repetition.
    """

    cell: str
    against: str
    metric: str
    by: str
    n: int
    prompts: int
    effect: float
    low: float
    high: float
    p: float
    p_holm: float
    visible: float
    verdict: str
    least: bool = False
    within_repeat: bool = False

    @property
    def decided(self) -> bool:
        """Whether the verdict is "better" or "worse"."""
        return self.verdict in (BETTER, WORSE)

    @property
    def size(self) -> float:
        """Distance of the effect from none; for a ratio, of its logarithm."""
        return abs(math.log(self.effect) if self.by == RATIO and self.effect > 0 else self.effect)


AnyComparison = TypeVar("AnyComparison", bound=Comparison)


@dataclass(frozen=True)
class Scale:
    """How cells are compared on a metric.

    Args:
        metric: a key of ``metrics`` in the rows, or a metric of sets. The feature distance and LPIPS are compared by ratio, all
            others by difference, also a number of your own.
        better: "lower" or "higher".
        margin: a factor above 1, or a difference above 0: smaller effects do not matter.
        reference: for a metric of sets, (m, d) projected features of the real images.
    """

    metric: str
    better: str
    margin: float | None = None
    reference: Array | None = None

    @property
    def by(self) -> str:
        """What the effect is: a "difference" or a "ratio"."""
        known = metrics().get(self.metric)
        return known.by if known else DIFFERENCE

    @property
    def of_sets(self) -> bool:
        """Whether the metric has a number for a whole set of images only."""
        known = metrics().get(self.metric)
        return known is not None and known.of == "set"


def compare(rows: Iterable[Row], scale: Scale) -> list[Comparison]:
    """Every cell that has a control against that control, Holm-corrected over the cells, the repetitions last.

    Args:
        rows: of a run; an image counts only if its control has the same prompt and seed.
        scale: what is compared, and how.
    """
    cells = by_cell(rows)
    named = [(name, group[0].against) for name, group in cells.items() if group[0].against in cells]
    cells_first = sorted(named, key=lambda pair: cells[pair[0]][0].role == REPEAT)
    return paired(cells, [(name, control) for name, control in cells_first if control and name != control], scale)


def paired(cells: Mapping[str, Sequence[Row]], names: Sequence[tuple[str, str]], scale: Scale) -> list[Comparison]:
    """Some cells against others, Holm-corrected over those that are compared.

    Args:
        cells: rows by cell.
        names: cell and control of every comparison.
        scale: what is compared, and how.
    """
    raw = [_comparison(cells[cell], cells[control], scale) for cell, control in names]
    again = [cells[cell][0].role == REPEAT for cell, _ in names]
    raw = [replace(one, verdict=AGAIN) if repeat and not one.verdict else one for one, repeat in zip(raw, again, strict=True)]
    largest = max((one.size for one in raw if one.verdict == AGAIN), default=-math.inf)
    counted = [one for one in raw if not one.verdict]
    corrected = iter(holm([one.p for one in counted]))
    return [one if one.verdict else judged(one, next(corrected), scale, len(counted), largest) for one in raw]


def described(empty: AnyComparison, observed: Sequence[float], reason: str = "") -> AnyComparison:
    """A comparison with its statistics; without a verdict yet, or "not comparable: ...".

    Args:
        empty: a comparison without statistics.
        observed: the difference of every prompt, or the logarithm of its ratio.
        reason: why there can be no verdict although the numbers would allow one.
    """
    shown = math.exp if empty.by == RATIO else float
    middle, low, high = (shown(value) for value in bootstrap(observed))
    verdict = _unusable(observed) or reason
    one = replace(empty, prompts=len(observed), effect=middle, low=low, high=high, verdict=verdict)
    if verdict:
        return one
    p, visible = sign_flip(observed), shown(detectable(observed, len(observed)))
    return replace(one, p=p, p_holm=p, visible=visible, least=p <= least_p(len(observed)))


def judged(one: AnyComparison, p_holm: float, scale: Scale, compared: int, largest: float = -math.inf) -> AnyComparison:
    """A comparison with its verdict.

    Args:
        one: a comparison with its statistics.
        p_holm: its corrected p.
        scale: what is compared, and how.
        compared: how many comparisons it is corrected for.
        largest: size of the largest effect of a cell against itself with other random numbers.
    """
    higher = one.effect > (1 if one.by == RATIO else 0)
    verdict = UNSURE if p_holm >= ALPHA else BETTER if higher == (scale.better == "higher") else WORSE
    if verdict == UNSURE and _inside(one, scale.margin):
        verdict = SAME
    if verdict == UNSURE and compared * 2 / 2**one.prompts >= ALPHA:  # the smallest p that the test can have, corrected
        verdict = f"{UNSURE}: too few prompts for {compared} comparison{'s' * (compared > 1)}"
    return replace(one, p_holm=p_holm, verdict=verdict, within_repeat=one.size <= largest)


def _comparison(cell: Sequence[Row], control: Sequence[Row], scale: Scale) -> Comparison:
    names = {"cell": cell[0].cell, "against": control[0].cell, "metric": scale.metric, "by": scale.by}
    none = dict.fromkeys(("effect", "low", "high", "p", "p_holm", "visible"), math.nan)
    nothing = Comparison(**names, **none, n=len(pairs(cell, control)), prompts=0, verdict="")
    return _of_sets(nothing, cell, control, scale) if scale.of_sets else _of_images(nothing, cell, control, scale)


def _of_images(empty: Comparison, cell: Sequence[Row], control: Sequence[Row], scale: Scale) -> Comparison:
    observed = list(differences(cell, control, scale.metric, scale.by).values())
    return described(empty, observed, _elsewhere(cell, control))


def _of_sets(empty: Comparison, cell: Sequence[Row], control: Sequence[Row], scale: Scale) -> Comparison:
    reason = why_not(cell, control, scale.reference)
    if reason:
        return replace(empty, verdict=f"{NOT_COMPARABLE}: {reason}")
    found = kid_difference(cell, control, scale.reference)
    low, high = found.interval
    return replace(
        empty,
        prompts=found.prompts,
        effect=found.effect,
        low=low,
        high=high,
        p=found.p,
        p_holm=found.p,
        visible=2.8 * float(np.nanstd(found.resampled)),
        verdict=_elsewhere(cell, control),
        least=found.p <= least_p(found.prompts, two_sided=False),
    )


def _unusable(observed: Sequence[float]) -> str:
    """Why these numbers give no verdict; empty if they may."""
    if len(observed) < 2:
        return f"{NOT_COMPARABLE}: {len(observed)} prompts in common"
    lost = int((~np.isfinite(observed)).sum())
    return f"{NOT_COMPARABLE}: {lost} of {len(observed)} prompts have no finite difference or ratio" if lost else ""


def _elsewhere(cell: Sequence[Row], control: Sequence[Row]) -> str:
    """Why a cell merges too differently to be compared with its control; empty if it does not, or if the control is a base."""
    if control[0].role == "base":
        return ""
    granted = [math.fsum(row.granted or 0.0 for row in rows) / len(rows) for rows in (cell, control)]
    for option in ("roles", "levels"):
        own, other = ((rows[0].merging or {}).get(option) for rows in (cell, control))
        if own != other and f"merging.{option}" not in cell[0].values:
            return f"{NOT_COMPARABLE}: {option} {own} and {other}"
    if abs(granted[0] - granted[1]) > GRANTED_APART:
        return f"{NOT_COMPARABLE}: granted ratios {granted[0]:.3f} and {granted[1]:.3f}"
    return ""


def _inside(one: Comparison, margin: float | None) -> bool:
    """Whether the interval lies within the margin; NaN, where there is none, does not."""
    if margin is None:
        return False
    low, high = (1 / margin, margin) if one.by == RATIO else (-margin, margin)
    return low < one.low and one.high < high
