"""A ratio that follows the timestep or the content, around any strategy."""

import dataclasses
import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from mergekit_diff.components import LayerContext, MergeStrategy, RatioSchedule, register
from mergekit_diff.plan import MergePlan
from mergekit_diff.schedules import Constant, Linear

from .retom import ReToM


@register("dynamic-ratio")
@dataclass(frozen=True)
class DynamicRatio(MergeStrategy):
    """Another strategy at a ratio of its own: by timestep, or by how much of the picture repeats itself.

    The third question that ReToM leaves open (arXiv 2507.12771). One ratio serves the whole batch, so that shapes stay equal.

    Args:
        ratio: what replaces the inner strategy's ratio; with ``threshold``, the most that is merged.
        inner: any strategy that has a ``ratio``.
        threshold: cosine, in [-1, 1]; the ratio is the share of tokens more similar than it to one of their neighbours in
            the grid, over the whole batch; None follows ``ratio`` alone.
        quantum: with ``threshold``, kept tokens are rounded up to a multiple of this, so that few shapes occur.
    """

    ratio: RatioSchedule = Linear(0.75, 0.25)
    inner: MergeStrategy = ReToM()
    threshold: float | None = None
    quantum: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if "ratio" not in {f.name for f in dataclasses.fields(self.inner)}:
            raise ValueError(f"strategy 'dynamic-ratio': inner has no ratio to set: {self.inner!r}")
        if self.threshold is not None and not -1 <= self.threshold <= 1:
            raise ValueError(f"strategy 'dynamic-ratio': threshold is a cosine in [-1, 1]; given {self.threshold}")
        if self.quantum < 1:
            raise ValueError(f"strategy 'dynamic-ratio': quantum is at least 1; given {self.quantum}")

    @property
    def roles(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of the inner strategy, as are ``refresh`` and ``levels``."""
        return self.inner.roles

    @property
    def refresh(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the inner strategy."""
        return self.inner.refresh

    @property
    def levels(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of the inner strategy."""
        return self.inner.levels

    @property
    def batch_shared(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A ratio that looks at the content of the whole batch ties its rows together."""
        return self.threshold is not None or self.inner.batch_shared

    def unwrap(self) -> MergeStrategy:
        """The inner strategy with this ratio; with a threshold, this one, since the ratio is known only with the tokens."""
        return dataclasses.replace(self.inner, ratio=self.ratio).unwrap() if self.threshold is None else self

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan | None:
        """The inner strategy's plan at the ratio of this moment."""
        if self.threshold is None:
            return self.unwrap().plan(x, ctx)
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
