"""A wrapper that gives any strategy a ratio that follows the timestep or the content."""

import dataclasses
import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from mergekit_diff.components import LayerContext, RatioSchedule
from mergekit_diff.plan import Plan
from mergekit_diff.registry import register
from mergekit_diff.schedules import Constant, Linear

from .wrapper import Wrapper


@register("dynamic-ratio")
@dataclass(frozen=True)
class DynamicRatio(Wrapper):
    """Change another strategy's ratio by timestep or by how much is alike. The third question of ReToM, arXiv 2507.12771.

    One ratio is used for the whole batch, so that all rows keep the same number of tokens.

    Args:
        ratio: replaces the inner strategy's ratio; with ``threshold``, it is the upper limit.
        inner: any strategy with a ``ratio``.
        threshold: cosine, in [-1, 1]; the ratio is the share of tokens, over the whole batch, whose cosine with a neighbor in
            the grid is larger; None follows ``ratio`` alone.
        quantum: with ``threshold``, kept tokens are rounded up to a multiple of this, so that few shapes occur.
    """

    ratio: RatioSchedule = Linear(0.75, 0.25)
    threshold: float | None = None
    quantum: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold is not None and not -1 <= self.threshold <= 1:
            raise ValueError(f"strategy 'dynamic-ratio': expected threshold in [-1, 1], got {self.threshold}")
        if self.quantum < 1:
            raise ValueError(f"strategy 'dynamic-ratio': expected quantum to be at least 1, got {self.quantum}")

    @property
    def batch_shared(self) -> bool:
        """True with ``threshold``: the ratio then depends on the content of the whole batch."""
        return self.threshold is not None or self.inner.batch_shared

    @property
    def waits(self) -> bool:
        """True with ``threshold``: how many tokens are alike is read on the host."""
        return self.threshold is not None or self.inner.waits

    def plan(self, x: Tensor, ctx: LayerContext) -> Plan | None:
        """The inner strategy's plan at the current ratio."""
        if self.threshold is None:
            return self.inner.plan(x, ctx)
        n = x.shape[1]
        kept = math.ceil(n * (1 - redundancy(x, ctx.grid, self.threshold)) / self.quantum) * self.quantum
        ratio = min(self.ratio(ctx), max(0.0, 1 - kept / n))
        return dataclasses.replace(self.inner, ratio=Constant(ratio)).plan(x, ctx)


def redundancy(x: Tensor, grid: tuple[int, ...], threshold: float) -> float:
    """Share of (B, N, C) tokens whose cosine to the next token along some axis of the grid is above ``threshold``."""
    unit = F.normalize(x, dim=-1).unflatten(1, grid)
    alike = unit.new_zeros(unit.shape[:-1]).bool()
    for axis in range(1, len(grid) + 1):
        n = unit.shape[axis]
        close = (unit.narrow(axis, 0, n - 1) * unit.narrow(axis, 1, n - 1)).sum(-1) > threshold
        alike.narrow(axis, 0, n - 1).logical_or_(close)
    return float(alike.float().mean())
