"""Where this project's own strategies lose on a leaderboard, said as plainly as where they win."""

import math
from collections.abc import Sequence

from .leaderboard import SORTED_BY, Entry
from .numbers import show

OURS = ("local-match", "retom", "dynamic-ratio")
"""Strategies of this project, not of a paper alone."""
NAMED = 6  # strategies that are named at most


def losses(entries: Sequence[Entry]) -> str:
    """A Markdown list, an item for every curve of our own: which others are closer to the base at the cost that sorts the board.

    Args:
        entries: of a board, in its order.
    """
    column, cost = SORTED_BY
    reached = [entry for entry in entries if not math.isnan(entry.at[column][0])]
    lines = []
    for place, own in enumerate(reached):
        if own.strategy in OURS:
            closer = [entry for entry in reached[:place] if entry.strategy not in OURS]
            lines.append(
                f"* {_name(own)}, {show(own.at[column][0], 4)} at {cost:g} of the base's cost: {_said(closer, own, column)}"
            )
    for own in entries:
        if own.strategy in OURS and own not in reached:
            lines.append(f"* {_name(own)} has no cell that costs so much or so little that {cost:g} lies between.")
    return "\n".join(lines)


def _said(closer: Sequence[Entry], own: Entry, column: int) -> str:
    if not closer:
        return "no strategy of others is closer."
    apart = sum(_apart(entry, own, column) for entry in closer)
    names = ", ".join(f"{_name(entry)} ({show(entry.at[column][0], 4)})" for entry in closer[:NAMED])
    rest = f" and {len(closer) - NAMED} more" if len(closer) > NAMED else ""
    curves = "1 curve of others is" if len(closer) == 1 else f"{len(closer)} curves of others are"
    return f"{curves} closer, {apart} by intervals that do not meet: {names}{rest}."


def _apart(entry: Entry, own: Entry, column: int) -> bool:
    (_, low, high), (_, own_low, own_high) = entry.at[column], own.at[column]
    return high < own_low or own_high < low


def _name(entry: Entry) -> str:
    return f"`{entry.strategy}`" + (f" ({entry.setting})" if entry.setting else "")
