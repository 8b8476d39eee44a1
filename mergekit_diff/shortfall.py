"""Why a strategy merges less than it was asked to, as far as the counts and the windows of the grid show it."""

import torch

from .components import LayerContext, MergeStrategy, WindowSchedule
from .settling import schedules
from .windows import windows

CPU = torch.device("cpu")
SLACK = 0.005
"""Share of the tokens that may be lacking without a word; a single token may always be."""


def shortfall(strategy: MergeStrategy, ctx: LayerContext, before: int, after: int, asked: float) -> str:
    """The reason in a few words; empty if as much merges as was asked.

    Args:
        strategy: what made the plan; it may have windows.
        ctx: where and when, with or without noise.
        before: N, the number of tokens.
        after: how many are left.
        asked: the merge ratio, in [0, 1).
    """
    merged = before - after
    if asked * before - merged <= max(SLACK * before, 1):
        return ""
    if not merged:
        return "nothing merged at some steps"
    for schedule in schedules(strategy):
        if isinstance(schedule, WindowSchedule):
            groups, size = [group.shape for group in windows(ctx, schedule, CPU).groups], sides(cut(schedule, ctx))
            if after == sum(number for number, _ in groups):
                return f"each window of {size} keeps a token"
            if merged == sum(number * min(round(asked * k), k - 1) for number, k in groups):
                return f"rounded in windows of {size}"
    return "the strategy's own rule"


def cut(schedule: WindowSchedule, ctx: LayerContext) -> tuple[int, ...]:
    """The sides of a window, none longer than the grid's."""
    return tuple(min(pair) for pair in zip(schedule(ctx), ctx.grid, strict=True))


def sides(size: tuple[int, ...]) -> str:
    """The sides of a window as text.

    >>> sides((2, 4))
    '2x4'
    """
    return "x".join(map(str, size))
