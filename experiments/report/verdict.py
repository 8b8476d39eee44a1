"""The answer of the study: its primary metric, every cell against its control."""

from dataclasses import dataclass, field

from ..metrics import metrics
from ..results import pairing, tables
from ..results.answer import answer, caveats
from ..results.comparison import BESIDE, Comparison
from ..results.numbers import DASH, between, decimals, show
from ..results.run import Run

NO_PRIMARY = "No metric was named before the run to decide (primary), so there is no verdict: the table only describes."
NO_CONTROL = "The study has no control, so there is no verdict: the table only describes."
EFFECT = {
    pairing.DIFFERENCE: "Difference: cell minus control",
    pairing.RATIO: "Ratio: geometric mean of the cell's over the control's (1: no difference, 0.5: half the distance)",
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
        caveats: what must be said beside it, a line each.
        quality: the table of every metric of quality, by its title.
    """

    answer: str
    reading: str
    table: list[list[str]]
    caveats: list[str] = field(default_factory=list)
    quality: dict[str, list[list[str]]] = field(default_factory=dict)


def verdict(run: Run) -> Verdict:
    """Cells against their controls by the primary metric, or why there is no verdict."""
    primary = run.primary
    quality = {tables.quality_title(one): tables.verdict_table(one, {}) for one in run.qualities}
    if primary is None:
        return Verdict(NO_PRIMARY, "", [], quality=quality)
    if not run.comparisons:
        return Verdict(NO_CONTROL, "", [], quality=quality)
    by = run.comparisons[0].by
    named = f"Primary metric: {metrics()[primary.metric].label} ({primary.better} is better), named before the run."
    reading = f"{named} {EFFECT[by]}{READING}{OUTLIERS if by == pairing.RATIO else ''}"
    said = caveats(run.comparisons, run.beside, run.differing)
    return Verdict(answer(run.comparisons), reading, _table(run), said, quality)


def _table(run: Run) -> list[list[str]]:
    by = run.comparisons[0].by
    digits = decimals(value for one in run.comparisons for value in (one.effect, one.low, one.high))
    head = ["cell", "verdict", by, "95% interval", "p (Holm)", "visible from", "prompts", "pairs", "against"]
    head += [f"{metrics()[BESIDE].label} {metrics()[BESIDE].unit}"] if run.beside else []
    return [head, *[_row(run, one, digits, by == pairing.DIFFERENCE) for one in run.comparisons]]


def _row(run: Run, one: Comparison, digits: int, sign: bool) -> list[str]:
    effect, interval = show(one.effect, digits, sign), between(one.low, one.high, digits) or DASH
    numbers = [tables.show_p(one), show(one.visible, digits), str(one.prompts), str(one.n)]
    return [
        f"{run.marks[one.cell]} {one.cell}",
        one.verdict,
        effect,
        interval,
        *numbers,
        f"{run.marks[one.against]} {one.against}",
        *([_second(run.beside.get(one.cell))] if run.beside else []),
    ]


def _second(one: Comparison | None) -> str:
    """The effect by the second metric and, where that decides, its verdict."""
    if one is None:
        return DASH
    return f"{show(one.effect, 2, True)} {one.verdict if one.decided else ''}".strip()
