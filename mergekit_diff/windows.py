"""The windows of a grid; at the border they are smaller rectangles."""

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor

from .components import LayerContext, WindowSchedule

BATCH = 4096
"""Tokens in one tensor of windows, at most: then what a strategy computes for them, (windows, k, k) similarities among it, stays
in a CPU's cache, and peak memory does not grow with the grid."""


@dataclass(frozen=True)
class Windows:
    """A partition of a grid's tokens into rectangles, in batches of one shape and of so few tokens that caches hold them.

    Args:
        groups: tensors (W, k) of token indices in raster order, k the size of a window; together every token once.
        back: (N,) where each token stands in the groups laid end to end.
    """

    groups: tuple[Tensor, ...]
    back: Tensor

    def join(self, values: list[Tensor]) -> Tensor:
        """A (B, W, k) for each group to (B, N), in the order of the tokens."""
        return torch.cat([v.flatten(1) for v in values], 1).index_select(1, self.back)


def windows(ctx: LayerContext, schedule: WindowSchedule, device: torch.device, times: int = 1) -> Windows:
    """The windows that ``schedule`` asks for here; a window larger than the grid is cut to it.

    Args:
        ctx: where and when.
        schedule: size and offset.
        device: where the indices are wanted.
        times: blocks of so many windows along each axis instead.
    """
    return Windows(*_tensors(*_lattice(ctx, schedule, times), device))


def windows_in_blocks(ctx: LayerContext, schedule: WindowSchedule, times: int) -> tuple[int, ...]:
    """How many windows each block of ``windows(..., times=times)`` has, a number for each of its groups."""
    return _counts(_lattice(ctx, schedule, 1), _lattice(ctx, schedule, times))


def _lattice(ctx: LayerContext, schedule: WindowSchedule, times: int) -> tuple[tuple[int, ...], ...]:
    """The grid, the size of a block of windows, and where the first window begins."""
    size = schedule(ctx)
    offset = tuple(o % s for o, s in zip(schedule.offset(ctx), size, strict=True))
    return ctx.grid, tuple(times * s for s in size), offset


@torch.compiler.assume_constant_result
def _tensors(*given: Any) -> tuple[tuple[Tensor, ...], Tensor]:  # noqa: ANN401
    """A compiler takes the windows as they are, and not every step of their making."""
    return _partition(*given)


@lru_cache(maxsize=256)
def _partition(
    grid: tuple[int, ...], size: tuple[int, ...], offset: tuple[int, ...], device: torch.device
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The groups and the way back of :class:`Windows`."""
    cuts = [[0, *range(s - o % s, n, s), n] for n, s, o in zip(grid, size, offset, strict=True)]
    tokens = torch.arange(math.prod(grid)).view(grid)
    by_shape: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
    for spans in product(*(pairwise(c) for c in cuts)):
        window = tokens[tuple(slice(a, b) for a, b in spans)]
        by_shape[tuple(window.shape)].append(window.flatten())
    groups = [batch for g in by_shape.values() for batch in torch.stack(g).split(max(1, BATCH // len(g[0])))]
    back = torch.empty(tokens.numel(), dtype=torch.long)
    back[torch.cat([g.flatten() for g in groups])] = torch.arange(tokens.numel())
    return tuple(g.to(device) for g in groups), back.to(device)


@torch.compiler.assume_constant_result
def _counts(*given: Any) -> tuple[int, ...]:  # noqa: ANN401
    return _count(*given)


@lru_cache(maxsize=256)
def _count(small: tuple[tuple[int, ...], ...], blocks: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    cpu = torch.device("cpu")
    first = {token for group in _partition(*small, cpu)[0] for token in group[:, 0].tolist()}
    return tuple(len(first.intersection(group[0].tolist())) for group in _partition(*blocks, cpu)[0])
