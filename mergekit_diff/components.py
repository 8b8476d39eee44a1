"""The abstract parts that users write and swap: strategies, metrics, ratio and window schedules."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from .plan import Plan
from .registry import Part


@dataclass(frozen=True)
class LayerContext:
    """Where in the network and when in the denoising a plan is made.

    Args:
        site: name of the transformer block in its model.
        role: one of ``mergekit_diff.sites.ROLES``; where several share a plan, the first of these.
        stage: "down", "mid" or "up" of a U-Net, else None.
        depth: number of sites before this one, in [0, num_sites).
        num_sites: number of sites of a denoiser in the session.
        grid: the tokens' layout; ``prod(grid) == N``.
        level: 0 for the finest grid that has attention in this model, 1 for the next.
        step: number of denoising steps of this image before this one.
        num_steps: number of denoising steps of this image; None without a scheduler.
        timestep: the diffusion timestep that the denoiser was called with.
        progress: 0 at the first timestep of the image, 1 at the last.
        noise: (N,) uniform in [0, 1), from (seed, step, site); the same for every row of the batch.
        still: as ``noise``, but the same at every step, from (seed, site).
        signals: what the strategy asked for, by the words of ``mergekit_diff.signals.SIGNALS``; empty for all others.
    """

    site: str
    role: str
    stage: str | None
    depth: int
    num_sites: int
    grid: tuple[int, ...]
    level: int
    step: int
    num_steps: int | None
    timestep: float
    progress: float
    noise: Tensor
    still: Tensor
    signals: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Defaults:
    """What :func:`mergekit_diff.merging` does with a strategy where the user does not say; its options explain each."""

    roles: tuple[str, ...]
    refresh: int
    levels: int | None
    share: tuple[str, ...]
    proportional: bool | None


class MergeStrategy(Part):
    """Chooses, from a block's input, which tokens merge. It holds no state: the session keeps plans and draws noise."""

    kind = "strategy"
    roles: ClassVar[tuple[str, ...]] = ("self_attention",)
    refresh: ClassVar[int] = 1
    levels: ClassVar[int | None] = None
    share: ClassVar[tuple[str, ...]] = ()
    proportional: ClassVar[bool | None] = None
    needs: ClassVar[tuple[str, ...]] = ()
    axes: ClassVar[tuple[int, ...]] = (1, 2, 3)
    """The numbers of axes of the grids that it plans for."""
    max_ratio: ClassVar[float] = 1.0
    """The largest share of tokens that it can merge away, whatever its settings."""

    def asks(self) -> tuple[str, ...]:
        """The words of ``mergekit_diff.signals.SIGNALS`` that the session gives to this strategy in ``LayerContext.signals``.

        All of ``needs``, unless its settings make some of them needless, or it wraps another strategy.
        """
        return self.needs

    def at(self, ctx: LayerContext) -> "MergeStrategy":
        """The strategy as it is at one moment; itself, unless it works in phases.

        What :meth:`plan` does differently in each phase must be a setting that this chooses: a compiled session has a graph for
        every value of a number that ``plan`` reads from ``ctx``, and a plan is used no longer than its phase.
        """
        return self

    @property
    def memory(self) -> int | None:
        """The number of steps after which ``last_plan`` is withheld once, so that the strategy starts anew; None is never.

        Counted from the last plan that was made without one.
        """
        return None

    def defaults(self) -> Defaults:
        """The options of ``merging`` that suit this strategy: its class attributes, unless it wraps another strategy."""
        return Defaults(self.roles, self.refresh, self.levels, self.share, self.proportional)

    def after(self, last: Plan) -> "MergeStrategy":
        """The strategy that makes the plan after ``last``, where ``last_plan`` is given; itself unless it says so.

        Called on the host and outside of any compiled graph: here a number of the last plan may decide how many tokens the next
        one keeps.
        """
        return self

    @property
    def waits(self) -> bool:
        """Whether ``plan`` reads a value on the host, and so waits for the device."""
        return False

    @property
    def batch_shared(self) -> bool:
        """Whether the plan of one row depends on the other rows of the batch."""
        return False

    @abstractmethod
    def plan(self, x: Tensor, ctx: LayerContext) -> Plan | None:
        """The plan for (B, N, C) tokens, or None to leave this site alone."""


class SimilarityMetric(Part):
    """How similar tokens are: larger is more similar."""

    kind = "metric"

    @abstractmethod
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Compare every token of ``a`` with every token of ``b``: (..., N, C) and (..., M, C) to (..., N, M)."""


class RatioSchedule(Part):
    """The merge ratio to ask for, by place and time."""

    kind = "ratio"

    @classmethod
    def from_shorthand(cls, spec: Any) -> Any:  # noqa: ANN401
        """A number is the ratio ``constant``."""
        number = isinstance(spec, int | float) and not isinstance(spec, bool)
        return {"name": "constant", "value": spec} if number else spec

    @abstractmethod
    def __call__(self, ctx: LayerContext) -> float:
        """The ratio, in [0, 1)."""


class WindowSchedule(Part):
    """The windows inside which tokens may merge, by place and time."""

    kind = "window"

    @classmethod
    def from_shorthand(cls, spec: Any) -> Any:  # noqa: ANN401
        """A whole number, or a list with one for each axis, is the window ``fixed``."""
        size = isinstance(spec, int | list | tuple) and not isinstance(spec, bool)
        return {"name": "fixed", "size": spec} if size else spec

    @abstractmethod
    def __call__(self, ctx: LayerContext) -> tuple[int, ...]:
        """The window's size along every axis of the grid, each at least 1."""

    def offset(self, ctx: LayerContext) -> tuple[int, ...]:
        """How far the first windows are shifted out of the grid along every axis; 0 unless a schedule says otherwise."""
        return (0,) * len(ctx.grid)
