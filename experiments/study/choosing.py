"""How a strategy chooses, found out on toy layers: by chance, alike in both halves of guidance, by a schedule.

What a strategy says of itself may be wrong or missing, so these look at its plans.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from mergekit_diff import LayerContext, MergeStrategy, SoftPlan
from mergekit_diff.settling import settled
from mergekit_diff.signals import toy_signals

from .rehearsal import toy_context, toy_grid

GRIDS = (16, 16), (4, 16, 16)
"""Of an image, and of a video for strategies whose windows reach over frames."""
STAGES = ("down", "mid", "up")
STEPS = 21
NOISES = ("noise", "still")
"""What a strategy may draw from: ``ctx.noise``, which every step has anew, and ``ctx.still``, which stays."""
ROWS = 4
"""Rows of different content; more than two, so that a strategy that merges few tokens shows its choice too."""
ALIKE = 8.0
"""Common to all tokens, in standard deviations, so that strategies that follow the content find something to merge."""


def drawn_from(strategy: MergeStrategy, role: str) -> frozenset[str]:
    """The draws that decide the plan: those of ``NOISES`` which, drawn again, change it for the same tokens.

    Args:
        strategy: what is tried; its choice is random if any draw decides it.
        role: where it merges.
    """
    draw, deciding = torch.Generator().manual_seed(1), set[str]()
    for x, ctx in _layers(strategy, role):
        target = _targets(strategy, x, ctx)
        for name in NOISES:
            other = replace(ctx, **{name: torch.rand(ctx.noise.shape, generator=draw)})
            if name not in deciding and not torch.equal(target, _targets(strategy, x, other)):
                deciding.add(name)
    return frozenset(deciding)


def is_shared(strategy: MergeStrategy, role: str) -> bool:
    """Whether rows of different content have the same destinations: none is merged away in another row.

    The halves of guidance are such rows. What merges into a destination may differ.
    """
    for x, ctx in _layers(strategy, role):
        tokens = torch.arange(x.shape[1])
        target = _targets(strategy, x, ctx)
        is_source = target != tokens
        is_destination = ((target[..., None] == tokens) & is_source[..., None]).any(1)
        if (is_source.any(0) & is_destination.any(0)).any():
            return False
    return True


def is_scheduled(strategy: MergeStrategy, role: str) -> bool:
    """Whether its ratio or window changes over the steps."""
    grid = toy_grid(strategy, [role], GRIDS)
    for depth, stage in enumerate(STAGES):
        steps = (toy_context(grid, role, stage, depth, len(STAGES), step) for step in range(STEPS))
        if len({repr(settled(strategy, ctx)) for ctx in steps}) > 1:
            return True
    return False


def _layers(strategy: MergeStrategy, role: str) -> Iterator[tuple[Tensor, LayerContext]]:
    """(B, N, C) tokens and where they are, for a layer of every stage."""
    grid = toy_grid(strategy, [role], GRIDS)
    for depth, stage in enumerate(STAGES):
        draw = torch.Generator().manual_seed(depth)
        x = ALIKE + torch.randn(ROWS, math.prod(grid), 4, generator=draw)
        yield x, toy_context(grid, role, stage, depth, len(STAGES))


def _targets(strategy: MergeStrategy, x: Tensor, ctx: LayerContext) -> Tensor:
    """(B, N) for every token the one that stands for it, from any class of plan; in a soft one, the one of largest weight."""
    numbers = torch.arange(x.shape[1], dtype=x.dtype).expand(len(x), -1)[..., None]
    plan = strategy.plan(x, replace(ctx, signals=toy_signals(strategy, x)))
    if isinstance(plan, SoftPlan):
        return plan.rep.expand(len(x), -1).gather(1, plan.assign.expand(len(x), -1))
    return (numbers if plan is None else plan.unmerge(plan.select(numbers))).squeeze(-1)
