"""What can be wrong with a strategy and its merging options is found on a toy layer, before a model is loaded."""

from typing import Any

import torch

from mergekit_diff import LayerContext, MergeStrategy
from mergekit_diff.components import one_of
from mergekit_diff.session import GATES, SHARE
from mergekit_diff.sites import ROLES

from .config import Merging


def merging_options(strategy: MergeStrategy, options: Merging) -> dict[str, Any]:
    """The options of ``merging`` with the strategy's own defaults filled in.

    Raises:
        ValueError: an option is out of range or unknown.
    """
    filled = {
        "refresh": strategy.refresh if options.refresh is None else options.refresh,
        "roles": list(strategy.roles if options.roles is None else options.roles),
        "levels": strategy.levels if options.levels is None else options.levels,
        "share": list(options.share),
        "gate": options.gate,
        "seed": options.seed,
    }
    if filled["refresh"] < 1:
        raise ValueError(f"merging.refresh must be at least 1, not {filled['refresh']}")
    if not filled["roles"]:
        raise ValueError(f"merging.roles must name at least one role; possible: {', '.join(ROLES)}")
    for role in filled["roles"]:
        one_of(role, ROLES, "role")
    for share in filled["share"]:
        one_of(share, SHARE, "share")
    one_of(filled["gate"], GATES, "gate")
    if filled["levels"] is not None and not (type(filled["levels"]) is int and filled["levels"] >= 1):
        raise ValueError(f"merging.levels must be a number of levels, at least 1, or null for all, not {filled['levels']!r}")
    return filled


def rehearse(strategy: MergeStrategy, roles: list[str], grid: tuple[int, ...] = (8, 8)) -> None:
    """Plan for a few toy layers, so that a window of the wrong number of axes, say, is found at once.

    Raises:
        ValueError: as the strategy says it.
    """
    tokens = grid[0] * grid[1]
    x = torch.linspace(-1, 1, tokens * 4).view(1, tokens, 4)
    for depth, stage in enumerate(("down", "mid", "up")):
        ctx = toy_context(grid, roles[0], stage=stage, depth=depth, num_sites=3)
        strategy.plan(x, ctx)


def toy_context(
    grid: tuple[int, ...], role: str, stage: str = "down", depth: int = 0, num_sites: int = 1, step: int = 0
) -> LayerContext:
    """A layer outside any model, at one of 21 steps."""
    draw = torch.Generator().manual_seed(depth)
    noise = torch.rand(torch.Size(grid).numel(), generator=draw)
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
    )
