"""The common part of strategies that wrap another strategy."""

import dataclasses
from dataclasses import dataclass

from mergekit_diff.components import Defaults, LayerContext, MergeStrategy, RatioSchedule
from mergekit_diff.plan import Plan
from mergekit_diff.schedules import Constant

from .retom import ReToM


@dataclass(frozen=True)
class Wrapper(MergeStrategy):
    """Another strategy at a ratio that is set here; everything else is inherited from it.

    Args:
        ratio: replaces the inner strategy's ratio.
        inner: any strategy with a ``ratio``.
    """

    ratio: RatioSchedule = Constant(0.5)
    inner: MergeStrategy = ReToM()

    def __post_init__(self) -> None:
        super().__post_init__()
        if "ratio" not in {f.name for f in dataclasses.fields(self.inner)}:
            raise ValueError(f"strategy '{self.name}': expected inner to have a ratio, got {self.inner!r}")
        object.__setattr__(self, "inner", dataclasses.replace(self.inner, ratio=self.ratio))

    def defaults(self) -> Defaults:
        """Inherited from ``inner``."""
        return self.inner.defaults()

    def asks(self) -> tuple[str, ...]:
        """Inherited from ``inner``."""
        return self.inner.asks()

    def at(self, ctx: LayerContext) -> MergeStrategy:
        """Itself, with the phase of ``inner``."""
        inner = self.inner.at(ctx)
        return self if inner is self.inner else dataclasses.replace(self, inner=inner)

    def after(self, last: Plan) -> MergeStrategy:
        """Itself, with what ``inner`` is after ``last`` but for the ratio, which is set here."""
        inner = self.inner.after(last)
        return self if inner is self.inner else dataclasses.replace(self, inner=inner)

    @property
    def memory(self) -> int | None:
        """Inherited from ``inner``."""
        return self.inner.memory

    @property
    def waits(self) -> bool:
        """Inherited from ``inner``."""
        return self.inner.waits

    @property
    def batch_shared(self) -> bool:
        """Inherited from ``inner``."""
        return self.inner.batch_shared
