"""How a strategy chooses, found out on toy layers: by chance, alike in both halves of guidance, by a schedule.

What a strategy says of itself may be wrong or missing, so these look at its plans.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mergekit_diff import LayerContext, MergeStrategy
from mergekit_diff.settling import settled
from mergekit_diff.signals import toy_signals

from .rehearsal import toy_context

GRID = (16, 16)
STAGES = ("down", "mid", "up")
STEPS = 21
ROWS = 4
"""Rows of different content; more than two, so that a strategy that merges few tokens shows its choice too."""
ALIKE = 8.0
"""Common to all tokens, in standard deviations, so that strategies that follow the content find something to merge."""


def is_random(strategy: MergeStrategy, role: str, draws: Sequence[str] = ("noise", "still")) -> bool:
    """Whether another draw changes the plan for the same tokens.

    Args:
        strategy: what is tried.
        role: where it merges.
        draws: what is drawn again: ``ctx.noise``, which every step has anew, ``ctx.still``, or both.
    """
    draw = torch.Generator().manual_seed(1)
    for x, ctx in _layers(role):
        other = replace(ctx, **{name: torch.rand(ctx.noise.shape, generator=draw) for name in draws})
        if not torch.equal(_targets(strategy, x, ctx), _targets(strategy, x, other)):
            return True
    return False


def is_shared(strategy: MergeStrategy, role: str) -> bool:
    """Whether rows of different content have the same destinations: none is merged away in another row.

    The halves of guidance are such rows. What merges into a destination may differ.
    """
    tokens = torch.arange(GRID[0] * GRID[1])
    for x, ctx in _layers(role):
        target = _targets(strategy, x, ctx)
        is_source = target != tokens
        is_destination = ((target[..., None] == tokens) & is_source[..., None]).any(1)
        if (is_source.any(0) & is_destination.any(0)).any():
            return False
    return True


def is_scheduled(strategy: MergeStrategy, role: str) -> bool:
    """Whether its ratio or window changes over the steps."""
    for depth, stage in enumerate(STAGES):
        steps = (toy_context(GRID, role, stage, depth, len(STAGES), step) for step in range(STEPS))
        if len({repr(settled(strategy, ctx)) for ctx in steps}) > 1:
            return True
    return False


def _layers(role: str) -> Iterator[tuple[Tensor, LayerContext]]:
    """(B, N, C) tokens and where they are, for a layer of every stage."""
    for depth, stage in enumerate(STAGES):
        draw = torch.Generator().manual_seed(depth)
        x = ALIKE + torch.randn(ROWS, GRID[0] * GRID[1], 4, generator=draw)
        yield x, toy_context(GRID, role, stage, depth, len(STAGES))


def _targets(strategy: MergeStrategy, x: Tensor, ctx: LayerContext) -> Tensor:
    """(B, N) for every token the one that stands for it, from any class of plan."""
    numbers = torch.arange(x.shape[1], dtype=x.dtype).expand(len(x), -1)[..., None]
    plan = strategy.plan(x, replace(ctx, signals=toy_signals(strategy, x)))
    return (numbers if plan is None else plan.unmerge(plan.select(numbers))).squeeze(-1)
