"""Tries a strategy and its merging options on a toy layer, so that mistakes are found before a model is loaded."""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from mergekit_diff import LayerContext, MergeStrategy, names
from mergekit_diff.options import Options
from mergekit_diff.registry import part_class
from mergekit_diff.signals import toy_signals

from .config import Merging
from .plan_check import check_plan

GRIDS: dict[str, tuple[tuple[int, ...], ...]] = {"video": ((4, 8, 8), (8, 8))}
"""By task, the kinds of grids that layers may have: some see all frames of a video, others one. Other tasks have OTHERS."""
OTHERS = ((8, 8),)


def merging_options(strategy: MergeStrategy, options: Merging) -> dict[str, Any]:
    """The options of ``merging`` with the strategy's own defaults filled in.

    Raises:
        ValueError: an option is out of range or unknown.
    """
    filled = Options(**vars(options)).filled(strategy)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(filled).items() if key != "strict"}


def rehearse(strategy: MergeStrategy, roles: list[str], grid: tuple[int, ...] = (8, 8)) -> None:
    """Plan for a few toy layers, so that, say, a window with the wrong number of axes is refused at once.

    Raises:
        ValueError: the strategy cannot plan, with its own message, or what it returns is no plan.
    """
    tokens = math.prod(grid)
    x = torch.linspace(-1, 1, tokens * 4).view(1, tokens, 4)
    for depth, stage in enumerate(("down", "mid", "up")):
        ctx = toy_context(grid, roles[0], stage=stage, depth=depth, num_sites=3)
        check_plan(strategy, strategy.plan(x, replace(ctx, signals=toy_signals(strategy, x))), tokens)


def toy_grid(strategy: MergeStrategy, roles: list[str], grids: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The first of some grids that a strategy plans for.

    Raises:
        ValueError: it plans for none; the message is that of the first.
    """
    errors: list[ValueError] = []
    for grid in grids:
        try:
            rehearse(strategy, roles, grid)
        except ValueError as error:
            errors.append(error)
        else:
            return grid
    raise errors[0]


def toy_context(
    grid: tuple[int, ...], role: str, stage: str = "down", depth: int = 0, num_sites: int = 1, step: int = 0
) -> LayerContext:
    """A layer outside any model, at one of 21 steps."""
    draw = torch.Generator().manual_seed(depth)
    noise, still = torch.rand(2, torch.Size(grid).numel(), generator=draw)
    return LayerContext(
        site=f"toy.{depth}",
        role=role,
        stage=stage,
        depth=depth,
        num_sites=num_sites,
        grid=grid,
        level=0,
        step=step,
        num_steps=21,
        timestep=1000.0 - 50 * step,
        progress=step / 20,
        noise=noise,
        still=still,
    )


def planning_for(axes: int) -> list[str]:
    """The names of the strategies that plan for grids of so many axes."""
    classes = {name: part_class("strategy", name) for name in names("strategy")}
    return [name for name, cls in classes.items() if issubclass(cls, MergeStrategy) and axes in cls.axes]
