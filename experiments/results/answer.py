"""The verdicts of a study in sentences: the answer, and what a careful reader must know beside it."""

from collections.abc import Mapping, Sequence

from ..metrics import metrics
from .comparison import AGAIN, BETTER, NOT_COMPARABLE, SAME, UNSURE, WORSE, Comparison
from .pairing import RATIO

LISTED = 6


def answer(comparisons: Sequence[Comparison]) -> str:
    """One sentence for the top of a report."""
    asked = [one for one in comparisons if one.verdict != AGAIN]
    if not asked:
        return "No control, so no verdict."
    cells: dict[str, list[str]] = {}
    for one in asked:
        cells.setdefault(one.verdict.split(":")[0], []).append(one.cell)
    one_control = len({one.against for one in asked}) == 1
    against = asked[0].against if one_control else "their controls"
    n = max(one.prompts for one in asked)
    order = (BETTER, WORSE, SAME, UNSURE, NOT_COMPARABLE)
    parts = [f"{verdict}: {_listed(cells[verdict])}" for verdict in order if verdict in cells]
    return f"Against {against}, by {asked[0].metric} over {n} prompts – {'. '.join(parts)}."  # noqa: RUF001


def caveats(
    comparisons: Sequence[Comparison], beside: Mapping[str, Comparison], differing: Mapping[str, Sequence[str]]
) -> list[str]:
    """What else must be said, a line each: a second metric that disagrees, effects as small as a repetition's, confounds.

    Args:
        comparisons: by the metric that decides.
        beside: by cell, the same comparison on the second metric.
        differing: by cell, what differs from its control besides the swept values.
    """
    lines = [f"{one.cell}: {said}" for one in comparisons if (said := disagreement(one, beside.get(one.cell)))]
    again = [one for one in comparisons if one.verdict == AGAIN]
    small = [one.cell for one in comparisons if one.within_repeat]
    if small:
        shown = ", ".join(f"{one.effect:{_digits(one)}}" for one in again)
        lines.append(f"No larger than {again[0].against} against itself with other random numbers ({shown}): {_listed(small)}.")
    lines += [f"{cell} differs from its control also in: {'; '.join(what)}." for cell, what in differing.items() if what]
    return lines


def disagreement(one: Comparison, other: Comparison | None) -> str:
    """What a second metric says where it decides otherwise; empty where it does not."""
    if other is None or not other.decided or other.verdict == one.verdict or one.verdict.startswith((NOT_COMPARABLE, AGAIN)):
        return ""
    label, unit, digits = metrics()[other.metric].label, metrics()[other.metric].unit, _digits(other)
    return f"{label} says {other.verdict}, {other.effect:{digits}} {unit} [{other.low:{digits}}, {other.high:{digits}}]."


def _digits(one: Comparison) -> str:
    return ".2f" if one.by == RATIO else "+.2f" if one.metric == "psnr" else "+.4f"


def _listed(cells: Sequence[str]) -> str:
    more = len(cells) - LISTED
    return "; ".join(cells[:LISTED]) + (f" and {more} more" if more > 0 else "")
