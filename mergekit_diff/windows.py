"""The windows of a grid, at the border smaller rectangles, and the merging of the most alike tokens inside each."""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor

from .components import LayerContext, RatioSchedule, WindowSchedule
from .plan import MergePlan, pick, through_batch, top

BATCH = 4096  # tokens
Choose = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


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


def merge_in_windows(
    x: Tensor, ctx: LayerContext, window: WindowSchedule, ratio: RatioSchedule, alpha: float | None, choose: Choose
) -> MergePlan:
    """In each window, merge the ``r_w = min(round(ratio * k_w), k_w - 1)`` tokens most similar to one of them into it.

    Args:
        x: (B, N, C) tokens.
        ctx: where and when.
        window: the windows; k_w is a window's own size, smaller at the border.
        ratio: the share of every window that is merged away.
        alpha: the merged token is ``alpha * D + (1 - alpha) * mean(S)``; None is the plain mean of D and S.
        choose: from a window's tokens (B, W, k, C) and their indices (W, k) the position (B, W, 1) of the representative D,
            and the similarity (B, W, k) of every token to it.
    """
    share = ratio(ctx)
    parts = windows(ctx, window, x.device)
    rows = x.reshape(-1, x.shape[-1])
    targets, shares, kept = [], [], 0
    for indices in parts.groups:
        count, k = indices.shape
        r = min(round(share * k), k - 1)
        kept += count * (k - r)
        indices = indices.expand(len(x), count, k)
        if r == 0:
            targets.append(indices)
            shares.append(torch.ones_like(indices, dtype=torch.float32))
            continue
        tokens = rows.index_select(0, through_batch(indices.flatten(1), x.shape[1])).view(*indices.shape, -1)
        chosen, similarity = choose(tokens, indices)
        is_rep = torch.arange(k, device=x.device) == chosen
        sources = top(similarity.masked_fill(is_rep, -torch.inf), r)
        targets.append(torch.where(sources, pick(indices, chosen), indices))
        if alpha is not None:
            shares.append(torch.where(sources, (1 - alpha) / r, torch.where(is_rep, alpha, 1.0)))
    weight = None if alpha is None else parts.join(shares)
    return MergePlan.from_target(parts.join(targets), kept, weight)


def check_alpha(alpha: float | None) -> None:
    """Refuse a share of the representative that is neither None nor in [0, 1]."""
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"alpha is in [0, 1] or null; given {alpha}")
