"""Cells against their controls, over the same prompts and seeds, and the verdict.

Images of one prompt are not independent, so a prompt is one observation: the mean over its seeds of the difference between the
cell and its control at the same prompt and seed. How much merging changes an image differs from prompt to prompt by a factor
that is nearly the same for a cell and its control. A distance is therefore compared by its ratio to the control's, computed as a
difference of logarithms, which does not depend on that factor.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..metrics import metrics
from .inference import bootstrap, detectable, holm, sign_flip
from .row import Row, by_cell

BETTER, WORSE, UNSURE, NOT_COMPARABLE = "better", "worse", "can't tell at this n", "not comparable"
DIFFERENCE, RATIO = "difference", "ratio"
ALPHA = 0.05
GRANTED_APART = 0.01
LISTED = 6


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
        effect: mean over the prompts of cell minus control, or geometric mean of cell / control.
        low: lower end of its 95% bootstrap interval, not corrected for the number of cells.
        high: upper end.
        p: of the sign-flip test over prompts, two-sided.
        p_holm: the same, corrected for the number of cells that are compared.
        visible: the smallest difference, or ratio above 1, that this many prompts show in four of five studies, see
            :func:`.inference.detectable`.
        verdict: "better", "worse", "can't tell at this n", or "not comparable: ..." with the reason.
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


def compare(rows: Iterable[Row], metric: str, better: str) -> list[Comparison]:
    """Every cell that has a control against that control; Holm-corrected over the cells.

    Args:
        rows: of a run; an image counts only if its control has the same prompt and seed.
        metric: a key of ``metrics`` in the rows. The feature distance and LPIPS are compared by ratio, all others by difference,
            also a number of your own.
        better: "lower" or "higher".
    """
    cells, known = by_cell(rows), metrics().get(metric)
    by = known.by if known else DIFFERENCE
    pairs = [(group[0].cell, group[0].against) for group in cells.values()]
    comparisons = [
        _comparison(cells[name], cells[control], metric, by) for name, control in pairs if control in cells and control != name
    ]
    counted = [one for one in comparisons if not one.verdict]
    corrected = iter(holm([one.p for one in counted]))
    return [one if one.verdict else _judged(one, next(corrected), better, len(counted)) for one in comparisons]


def interval(rows: Iterable[Row], metric: str) -> tuple[float, float, float]:
    """Mean of a metric over the prompts of one cell, with its 95% bootstrap interval; NaN if nothing was measured."""
    return bootstrap(list(_per_prompt(_values(rows, metric)).values()))


def answer(comparisons: Sequence[Comparison]) -> str:
    """One sentence for the top of a report."""
    if not comparisons:
        return "No control, so no verdict."
    cells: dict[str, list[str]] = {}
    for one in comparisons:
        cells.setdefault(one.verdict.split(":")[0], []).append(one.cell)
    against = " or ".join(dict.fromkeys(one.against for one in comparisons)) if _one_control(comparisons) else "their controls"
    n = max(one.prompts for one in comparisons)
    parts = [f"{verdict}: {_listed(cells[verdict])}" for verdict in (BETTER, WORSE, UNSURE, NOT_COMPARABLE) if verdict in cells]
    return f"Against {against}, by {comparisons[0].metric} over {n} prompts – {'. '.join(parts)}."  # noqa: RUF001


def differences(cell: Iterable[Row], control: Iterable[Row], metric: str, by: str = DIFFERENCE) -> dict[str, float]:
    """By prompt, the mean over seeds of cell minus control, or of the logarithm of their ratio: not finite where one is 0."""
    size = _logarithm if by == RATIO else float
    own, other = _values(cell, metric, size), _values(control, metric, size)
    return _per_prompt({key: value - other[key] for key, value in own.items() if key in other})  # inf - inf is NaN, and reported


def _values(rows: Iterable[Row], metric: str, size: Callable[[float], float] = float) -> dict[tuple[str, int], float]:
    return {(row.prompt, row.seed): size(row.metrics[metric]) for row in rows if metric in row.metrics}


def _logarithm(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _per_prompt(values: Mapping[tuple[str, int], float]) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for (prompt, _), value in values.items():
        groups.setdefault(prompt, []).append(value)
    return {prompt: math.fsum(group) / len(group) for prompt, group in groups.items()}


def _comparison(cell: list[Row], control: list[Row], metric: str, by: str) -> Comparison:
    shown = math.exp if by == RATIO else float
    observed = list(differences(cell, control, metric, by).values())
    pairs = {(row.prompt, row.seed) for row in cell} & {(row.prompt, row.seed) for row in control}
    middle, low, high = (shown(value) for value in bootstrap(observed))
    reason = _not_comparable(cell, control, observed)
    p = math.nan if reason else sign_flip(observed)
    visible = math.nan if reason else shown(detectable(observed, len(observed)))
    names = cell[0].cell, control[0].cell
    return Comparison(*names, metric, by, len(pairs), len(observed), middle, low, high, p, p, visible, reason)


def _not_comparable(cell: list[Row], control: list[Row], observed: list[float]) -> str:
    granted = [math.fsum(row.granted or 0.0 for row in rows) / len(rows) for rows in (cell, control)]
    if len(observed) < 2:
        return f"{NOT_COMPARABLE}: {len(observed)} prompts in common"
    if not np.isfinite(observed).all():
        lost = int((~np.isfinite(observed)).sum())
        return f"{NOT_COMPARABLE}: {lost} of {len(observed)} prompts have no finite difference or ratio"
    for option in ("roles", "levels"):
        own, other = ((rows[0].merging or {}).get(option) for rows in (cell, control))
        if own != other and f"merging.{option}" not in cell[0].values:
            return f"{NOT_COMPARABLE}: {option} {own} and {other}"
    if abs(granted[0] - granted[1]) > GRANTED_APART:
        return f"{NOT_COMPARABLE}: granted ratios {granted[0]:.3f} and {granted[1]:.3f}"
    return ""


def _judged(one: Comparison, p_holm: float, better: str, cells: int) -> Comparison:
    higher = one.effect > (1 if one.by == RATIO else 0)
    verdict = UNSURE if p_holm >= ALPHA else BETTER if higher == (better == "higher") else WORSE
    if verdict == UNSURE and cells * 2 / 2**one.prompts >= ALPHA:  # the smallest p that the test can have, corrected
        verdict = f"{UNSURE}: too few prompts for {cells} comparisons"
    return replace(one, p_holm=p_holm, verdict=verdict)


def _listed(cells: Sequence[str]) -> str:
    more = len(cells) - LISTED
    return "; ".join(cells[:LISTED]) + (f" and {more} more" if more > 0 else "")


def _one_control(comparisons: Sequence[Comparison]) -> bool:
    return len({one.against for one in comparisons}) == 1
