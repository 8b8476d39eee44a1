"""What strategies around another strategy have in common."""

import dataclasses
from dataclasses import dataclass

from mergekit_diff.components import MergeStrategy, RatioSchedule
from mergekit_diff.schedules import Constant

from .retom import ReToM


@dataclass(frozen=True)
class Wrapper(MergeStrategy):
    """Another strategy, at a ratio that is set here; its roles, levels and refresh are taken over.

    Args:
        ratio: what replaces the inner strategy's ratio.
        inner: any strategy that has a ``ratio``.
    """

    ratio: RatioSchedule = Constant(0.5)
    inner: MergeStrategy = ReToM()

    def __post_init__(self) -> None:
        super().__post_init__()
        if "ratio" not in {f.name for f in dataclasses.fields(self.inner)}:
            raise ValueError(f"strategy '{self.name}': inner has no ratio to set: {self.inner!r}")
        object.__setattr__(self, "inner", dataclasses.replace(self.inner, ratio=self.ratio))

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
        """As the inner strategy."""
        return self.inner.batch_shared
