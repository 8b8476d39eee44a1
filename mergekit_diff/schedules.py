"""Ratio and window schedules: settings that depend on where in the network and when in the denoising a plan is made.

>>> from mergekit_diff import make
>>> make("ratio", {"name": "linear", "start": 0.75, "end": 0.25})
Linear(start=0.75, end=0.25)
>>> make("window", {"name": "by-stage", "mid": 16})
ByStage(down=Fixed(size=4), mid=Fixed(size=16), up=Fixed(size=4))
"""

import math
from dataclasses import dataclass
from itertools import pairwise

from .components import LayerContext, RatioSchedule, WindowSchedule
from .registry import one_of, register

Size = int | tuple[int, ...]


def _check_ratio(field: str, value: float) -> None:
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"expected a merge ratio in [0, 1), got {field} = {value}")


@register("constant")
@dataclass(frozen=True)
class Constant(RatioSchedule):
    """The same ratio at every site and step."""

    value: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_ratio("value", self.value)

    def __call__(self, ctx: LayerContext) -> float:
        return self.value


@dataclass(frozen=True)
class _FromTo(RatioSchedule):
    start: float = 0.75
    end: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_ratio("start", self.start)
        _check_ratio("end", self.end)

    def _between(self, fraction: float) -> float:
        return self.start + (self.end - self.start) * fraction


@register("linear")
@dataclass(frozen=True)
class Linear(_FromTo):
    """A straight line over the denoising: ``start`` at the first timestep, ``end`` at the last."""

    def __call__(self, ctx: LayerContext) -> float:
        return self._between(ctx.progress)


@register("cosine")
@dataclass(frozen=True)
class CosineRatio(_FromTo):
    """Half a cosine from ``start`` to ``end``: slow at both ends of the denoising, fast in the middle."""

    def __call__(self, ctx: LayerContext) -> float:
        return self._between((1 - math.cos(math.pi * ctx.progress)) / 2)


@register("by-depth")
@dataclass(frozen=True)
class ByDepth(_FromTo):
    """A straight line over the sites of the network: ``start`` at the first, ``end`` at the last."""

    def __call__(self, ctx: LayerContext) -> float:
        return self._between(ctx.depth / max(ctx.num_sites - 1, 1))


@register("by-role")
@dataclass(frozen=True)
class ByRole(RatioSchedule):
    """One ratio for keys and values (the role "key_value") and another for all other roles, whose plan merges the queries."""

    key_value: RatioSchedule = Constant(0.75)
    others: RatioSchedule = Constant(0.5)

    def __call__(self, ctx: LayerContext) -> float:
        return (self.key_value if ctx.role == "key_value" else self.others)(ctx)


@register("step")
@dataclass(frozen=True)
class Step(RatioSchedule):
    """``values[i]`` between the i-th and the next point of ``at``, rising fractions of the denoising in (0, 1)."""

    values: tuple[float, ...] = (0.75, 0.25)
    at: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        super().__post_init__()
        for value in self.values:
            _check_ratio("values", value)
        numbers = all(isinstance(point, int | float) for point in self.at)
        rising = numbers and all(a < b for a, b in pairwise((0.0, *self.at, 1.0)))
        if not rising or len(self.values) != len(self.at) + 1:
            raise ValueError(
                f"ratio 'step': expected one value more than points, points rising in (0, 1); got {self.values}, {self.at}"
            )

    def __call__(self, ctx: LayerContext) -> float:
        return self.values[sum(ctx.progress >= point for point in self.at)]


@register("fixed")
@dataclass(frozen=True)
class Fixed(WindowSchedule):
    """The same window at every site and step: a side for each axis, or one for height and width, or for a line of tokens.

    On a video's grid one side leaves the frames apart, as if it were ``(1, side, side)``: a frame of latents stands for 4 or more
    of the video, in which whatever moves is elsewhere, and a window over time has ``side`` times the tokens and ``side`` squared
    times the similarities. ``(2, 4, 4)`` merges over time.
    """

    size: Size = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        sides = self.size if isinstance(self.size, tuple) else (self.size,)
        if not sides or any(not isinstance(side, int) or side < 1 for side in sides):
            raise ValueError(f"expected the sides of a window to be whole numbers of at least 1, got {self.size}")

    def __call__(self, ctx: LayerContext) -> tuple[int, ...]:
        apart = (1,) if len(ctx.grid) == 3 else ()
        size = self.size if isinstance(self.size, tuple) else (*apart, *(self.size,) * (len(ctx.grid) - len(apart)))
        if len(size) != len(ctx.grid):
            raise ValueError(
                f"expected a window of {len(ctx.grid)} axes for the grid {ctx.grid} of {ctx.site}, got {len(size)} axes {size}"
            )
        return size


@register("cube")
@dataclass(frozen=True)
class Cube(WindowSchedule):
    """The same side along every axis: a cube on a video's grid, which reaches over frames."""

    side: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        Fixed(self.side)

    def __call__(self, ctx: LayerContext) -> tuple[int, ...]:
        return (self.side,) * len(ctx.grid)


@register("by-stage")
@dataclass(frozen=True)
class ByStage(WindowSchedule):
    """A window for each stage of a U-Net, small outside and large in the middle as in ReToM (arXiv 2507.12771).

    A model without stages takes ``down``.
    """

    down: WindowSchedule = Fixed(4)
    mid: WindowSchedule = Fixed(8)
    up: WindowSchedule = Fixed(4)

    def __call__(self, ctx: LayerContext) -> tuple[int, ...]:
        return self._now(ctx)(ctx)

    def offset(self, ctx: LayerContext) -> tuple[int, ...]:
        """The offset of the stage's own schedule."""
        return self._now(ctx).offset(ctx)

    def _now(self, ctx: LayerContext) -> WindowSchedule:
        return {"mid": self.mid, "up": self.up}.get(ctx.stage or "down", self.down)


@register("by-resolution")
@dataclass(frozen=True)
class ByResolution(WindowSchedule):
    """``sizes[level]``, finest grid first; all coarser grids take the last one."""

    sizes: tuple[int, ...] = (8, 4, 2)

    def __post_init__(self) -> None:
        super().__post_init__()
        Fixed(self.sizes)

    def __call__(self, ctx: LayerContext) -> tuple[int, ...]:
        return Fixed(self.sizes[min(ctx.level, len(self.sizes) - 1)])(ctx)


@register("by-progress")
@dataclass(frozen=True)
class ByProgress(WindowSchedule):
    """One window before the point ``at`` of the denoising (in [0, 1]) and another from it on."""

    early: WindowSchedule = Fixed(8)
    late: WindowSchedule = Fixed(4)
    at: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.at <= 1:
            raise ValueError(f"window 'by-progress': expected at in [0, 1], got {self.at}")

    def __call__(self, ctx: LayerContext) -> tuple[int, ...]:
        return self._now(ctx)(ctx)

    def offset(self, ctx: LayerContext) -> tuple[int, ...]:
        """The offset of the current schedule."""
        return self._now(ctx).offset(ctx)

    def _now(self, ctx: LayerContext) -> WindowSchedule:
        return self.early if ctx.progress < self.at else self.late


@register("shifted")
@dataclass(frozen=True)
class Shifted(WindowSchedule):
    """Another schedule's windows, shifted by half their size at every second site (``by="depth"``) or step (``by="step"``).

    Shifted windows: Liu et al. (2021), arXiv 2103.14030; here they do not wrap around, so windows at the border are smaller.
    """

    inner: WindowSchedule = Fixed(4)
    by: str = "depth"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.by, ("depth", "step"), "setting by of window 'shifted'")

    def __call__(self, ctx: LayerContext) -> tuple[int, ...]:
        return self.inner(ctx)

    def offset(self, ctx: LayerContext) -> tuple[int, ...]:
        """Half a window at odd sites or steps."""
        odd = (ctx.depth if self.by == "depth" else ctx.step) % 2
        return tuple(odd * (side // 2) for side in self(ctx))
