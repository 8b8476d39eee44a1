"""The answer of the study: its primary metric, every cell against its control."""

from dataclasses import dataclass

from ..results import comparison
from ..results.comparison import Comparison
from ..results.numbers import DASH, between, decimals, show
from ..results.run import Run

NO_PRIMARY = "No metric was named before the run to decide (primary), so there is no verdict: the table only describes."
NO_CONTROL = "The study has no control, so there is no verdict: the table only describes."
EFFECT = {
    comparison.DIFFERENCE: "Difference: cell minus control",
    comparison.RATIO: "Ratio: geometric mean of the cell's over the control's (1: no difference, 0.5: half the distance)",
}
READING = """ over the same prompts and seeds, with its 95% bootstrap interval. p: sign-flip test over prompts, corrected for the
number of comparisons (Holm); p below 0.05 gives a verdict. Visible from: the smallest effect that this number of prompts shows in
four of five studies, without that correction."""
OUTLIERS = " A cell that ruins a few images shows in the means of the numbers below rather than in this ratio."


@dataclass(frozen=True)
class Verdict:
    """The top of the page.

    Args:
        answer: one sentence.
        reading: how to read the table; empty without a table.
        table: heading and a row for every comparison, as text.
    """

    answer: str
    reading: str
    table: list[list[str]]


def verdict(run: Run) -> Verdict:
    """Cells against their controls by the primary metric, or why there is no verdict."""
    primary = run.primary
    if primary is None:
        return Verdict(NO_PRIMARY, "", [])
    if primary.metric not in run.metrics:
        return Verdict(f"{primary.metric} has no number for single images, so there is no verdict: see the table.", "", [])
    if not run.comparisons:
        return Verdict(NO_CONTROL, "", [])
    by = run.comparisons[0].by
    named = f"Primary metric: {run.metrics[primary.metric].label} ({primary.better} is better), named before the run."
    reading = f"{named} {EFFECT[by]}{READING}{OUTLIERS if by == comparison.RATIO else ''}"
    return Verdict(comparison.answer(run.comparisons), reading, _table(run))


def _table(run: Run) -> list[list[str]]:
    by = run.comparisons[0].by
    digits = decimals(value for one in run.comparisons for value in (one.effect, one.low, one.high))
    head = ["cell", "verdict", by, "95% interval", "p (Holm)", "visible from", "prompts", "pairs", "against"]
    return [head, *[_row(run, one, digits, by == comparison.DIFFERENCE) for one in run.comparisons]]


def _row(run: Run, one: Comparison, digits: int, sign: bool) -> list[str]:
    effect, interval = show(one.effect, digits, sign), between(one.low, one.high, digits) or DASH
    numbers = [_p(one.p_holm), show(one.visible, digits), str(one.prompts), str(one.n)]
    return [
        f"{run.marks[one.cell]} {one.cell}",
        one.verdict,
        effect,
        interval,
        *numbers,
        f"{run.marks[one.against]} {one.against}",
    ]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else show(value, 3)
