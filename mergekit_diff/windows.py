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
"""Tokens in one batch of windows, at most: what a strategy computes for it, (windows, k, k) similarities above all, then stays in
a CPU's cache, and is freed before the next batch."""


@dataclass(frozen=True)
class Windows:
    """A partition of a grid's tokens into rectangles, in batches of windows of one shape.

    Args:
        groups: tensors (W, k) of token indices in raster order, k the size of a window; together they hold every token once.
        back: (N,) position of each token in the concatenated groups.
    """

    groups: tuple[Tensor, ...]
    back: Tensor

    def join(self, values: list[Tensor]) -> Tensor:
        """Put values that were computed window by window back in the order of the tokens: a (B, W, k) per group to (B, N)."""
        return torch.cat([v.flatten(1) for v in values], 1).index_select(1, self.back)


def windows(ctx: LayerContext, schedule: WindowSchedule, device: torch.device, times: int = 1) -> Windows:
    """The windows that a schedule asks for here; a window larger than the grid is cut to it.

    Args:
        ctx: where and when.
        schedule: gives size and offset.
        device: of the indices.
        times: return blocks of this many windows along each axis instead.

    >>> from mergekit_diff.components import LayerContext
    >>> from mergekit_diff.schedules import Fixed
    >>> ctx = LayerContext("block", "self_attention", None, 0, 1, (2, 4), 0, 0, None, 1000.0, 0.0, torch.rand(8), torch.rand(8))
    >>> windows(ctx, Fixed(2), torch.device("cpu")).groups
    (tensor([[0, 1, 4, 5],
            [2, 3, 6, 7]]),)
    """
    return Windows(*_tensors(*_lattice(ctx, schedule, times), device))


def windows_in_blocks(ctx: LayerContext, schedule: WindowSchedule, times: int) -> tuple[int, ...]:
    """The number of windows in a block of ``windows(..., times=times)``, for each of its groups."""
    return _counts(_lattice(ctx, schedule, 1), _lattice(ctx, schedule, times))


def _lattice(ctx: LayerContext, schedule: WindowSchedule, times: int) -> tuple[tuple[int, ...], ...]:
    """The grid, the size of a block of windows, and where the first window begins; windows of one frame stay in it."""
    size = schedule(ctx)
    offset = tuple(o % s for o, s in zip(schedule.offset(ctx), size, strict=True))
    apart = len(size) == 3 and size[0] == 1
    return ctx.grid, (*size[:apart], *(times * s for s in size[apart:])), offset


def keep_constant() -> None:
    """Have ``torch.compile`` take windows as constants; to be called before compiling, since it imports the compiler."""
    for function in (_tensors, _counts):
        torch.compiler.assume_constant_result(function)


def _tensors(*lattice_and_device: Any) -> tuple[tuple[Tensor, ...], Tensor]:  # noqa: ANN401
    """The partition as a constant to ``torch.compile``, which would otherwise trace every step of making it."""
    return _partition(*lattice_and_device)


@lru_cache(maxsize=256)
def _partition(
    grid: tuple[int, ...], size: tuple[int, ...], offset: tuple[int, ...], device: torch.device
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The two fields of :class:`Windows`."""
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


def _counts(*lattices: Any) -> tuple[int, ...]:  # noqa: ANN401
    """Of :func:`windows_in_blocks`, a constant as well."""
    return _count(*lattices)


@lru_cache(maxsize=256)
def _count(small: tuple[tuple[int, ...], ...], blocks: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    cpu = torch.device("cpu")
    first = {token for group in _partition(*small, cpu)[0] for token in group[:, 0].tolist()}
    return tuple(len(first.intersection(group[0].tolist())) for group in _partition(*blocks, cpu)[0])
