"""What the study found: its primary metric, cell against control."""

from dataclasses import dataclass

from ..results import comparison
from ..results.contents import Contents
from ..results.numbers import between, decimals, show
from ..results.tables import DASH

NO_PRIMARY = "No metric was named before the run to decide (primary), so there is no verdict: the table only describes."
NO_CONTROL = "The study has no control, so there is no verdict: the table only describes."
SAID = {
    comparison.DIFFERENCE: "Difference: cell minus control",
    comparison.RATIO: "Ratio: geometric mean of the cell's over the control's (1: no difference, 0.5: half the distance)",
}
TOLD = """ over the same prompts and seeds, with its 95% bootstrap interval. p: sign-flip test over prompts, corrected for the
number of comparisons (Holm); below 0.05 is a verdict. Visible from: the smallest one that so many prompts show in four of five
studies, without that correction."""
SPOILT = " A cell that spoils a few pictures shows in the means of all numbers below, rather than in this ratio."


@dataclass(frozen=True)
class Verdict:
    """The top of the page.

    Args:
        answer: one sentence.
        told: what the numbers of the table are; empty without a table.
        table: heading and a line a comparison, as text.
    """

    answer: str
    told: str
    table: list[list[str]]


def verdict(contents: Contents) -> Verdict:
    """Cells against their controls by the primary metric, or plainly why there is no verdict."""
    primary = contents.primary
    if primary is None:
        return Verdict(NO_PRIMARY, "", [])
    if primary.metric not in contents.metrics:
        return Verdict(f"{primary.metric} has no number for every single picture, so there is no verdict: see the table.", "", [])
    found = comparison.compare(contents.rows, primary.metric, primary.better)
    if not found:
        return Verdict(NO_CONTROL, "", [])
    named = f"Primary metric: {contents.metrics[primary.metric].label} ({primary.better} is better), named before the run."
    told = f"{named} {SAID[found[0].by]}{TOLD}{SPOILT if found[0].by == comparison.RATIO else ''}"
    return Verdict(comparison.answer(found), told, _table(contents, found))


def _table(contents: Contents, found: list[comparison.Comparison]) -> list[list[str]]:
    digits = decimals(value for one in found for value in (one.effect, one.low, one.high))
    head = ["cell", "verdict", found[0].by, "95% interval", "p (Holm)", "visible from", "prompts", "pairs", "against"]
    sign = found[0].by == comparison.DIFFERENCE
    rows = [[f"{contents.marks[one.cell]} {one.cell}", one.verdict, show(one.effect, digits, sign),
             between(one.low, one.high, digits) or DASH, _p(one.p_holm), show(one.visible, digits), str(one.prompts), str(one.n),
             f"{contents.marks[one.against]} {one.against}"] for one in found]  # fmt: skip
    return [head, *rows]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else show(value, 3)
