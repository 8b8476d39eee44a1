"""Plans of a session: made when they are too old, kept in between, shared where asked."""

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .clock import Clock
from .components import LayerContext, MergeStrategy, Part, RatioSchedule, WindowSchedule
from .plan import MergePlan
from .sites import Site


@dataclass
class Kept:
    """A plan with all that decides how long it holds."""

    plan: MergePlan | None
    owner: str
    image: int
    step: int
    checked: int
    settings: tuple[Any, ...]
    input: tuple[Any, ...]


class Planner:
    """Asks a strategy for plans and keeps them.

    A plan holds while it is younger than ``refresh`` steps, its image, shape, batch, dtype and device are the same, and the
    strategy's schedules return what it was made with.

    Args:
        strategy: what chooses.
        clock: says image, step and call.
        num_sites: sites of the session.
        refresh: the age in steps at which a plan is made anew.
        by_grid: whether sites of one grid share the plan of the first of them within a step.
        seed: all noise is drawn from (seed, step, site).
    """

    def __init__(self, strategy: MergeStrategy, clock: Clock, *, num_sites: int, refresh: int, by_grid: bool, seed: int) -> None:
        self.strategy, self.clock = strategy, clock
        self.num_sites, self.refresh, self.by_grid, self.seed = num_sites, refresh, by_grid, seed
        self._kept: dict[tuple[Any, ...], Kept] = {}

    def context(self, site: Site, role: str, depth: int, grid: tuple[int, ...]) -> LayerContext:
        """Where and when, its noise still empty."""
        return LayerContext(
            site=site.name,
            role=role,
            stage=site.stage,
            depth=depth,
            num_sites=self.num_sites,
            grid=grid,
            level=site.level,
            step=self.clock.step,
            num_steps=self.clock.num_steps,
            timestep=self.clock.timestep,
            progress=self.clock.progress,
            noise=torch.empty(0),
        )

    def plan(self, x: Tensor, ctx: LayerContext, halves: int) -> tuple[MergePlan | None, bool]:
        """The plan for (B, N, C) tokens and whether it was made just now.

        Args:
            x: the block's input.
            ctx: from :meth:`context`.
            halves: 2 if the rows are [uncond, cond] and the plan comes from the conditional half alone, else 1.

        Raises:
            ValueError: the grid does not hold N tokens.
        """
        if math.prod(ctx.grid) != x.shape[1]:
            raise ValueError(f"{ctx.site}: {x.shape[1]} tokens do not lie on a grid of {ctx.grid}")
        key = (ctx.grid if self.by_grid else ctx.site, self.clock.call, ctx.role)
        kept = self._kept.get(key)
        settings, given = self.settings(ctx), (ctx.grid, len(x), x.dtype, x.device, halves)
        if kept is not None and self._holds(kept, ctx, settings, given):
            kept.checked = ctx.step
            return kept.plan, False
        plan = self.fresh(x, ctx, halves)
        self._kept[key] = Kept(plan, ctx.site, self.clock.image, ctx.step, ctx.step, settings, given)
        return plan, True

    @torch.no_grad()
    def fresh(self, x: Tensor, ctx: LayerContext, halves: int) -> MergePlan | None:
        """A plan made here and now, for arguments as in :meth:`plan`; it is not kept."""
        ctx = dataclasses.replace(ctx, noise=self._noise(ctx, x.shape[1]).to(x.device))
        plan = self.strategy.plan(x[len(x) // halves * (halves - 1) :], ctx)
        if plan is None or plan.num_groups == plan.num_tokens:
            return plan
        return plan.prepared(len(x))

    def settings(self, ctx: LayerContext) -> tuple[Any, ...]:
        """What the strategy's schedules return here and now."""
        return tuple(s(ctx) if isinstance(s, RatioSchedule) else (s(ctx), s.offset(ctx)) for s in schedules(self.strategy))

    def _holds(self, kept: Kept, ctx: LayerContext, settings: tuple[Any, ...], given: tuple[Any, ...]) -> bool:
        if kept.image != self.clock.image or kept.input != given:
            return False
        if kept.owner != ctx.site:  # shared by grid: its owner ran earlier in this step and saw to it
            return kept.checked == ctx.step
        return ctx.step - kept.step < self.refresh and kept.settings == settings

    def _noise(self, ctx: LayerContext, n: int) -> Tensor:
        digest = hashlib.blake2b(f"{self.seed}/{ctx.step}/{ctx.site}".encode(), digest_size=7).digest()
        return torch.rand(n, generator=torch.Generator().manual_seed(int.from_bytes(digest, "big")))


def schedules(part: Part) -> list[RatioSchedule | WindowSchedule]:
    """The schedules among a part's settings, and among those of the parts inside it."""
    found: list[RatioSchedule | WindowSchedule] = []
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, RatioSchedule | WindowSchedule):
            found.append(value)
        elif isinstance(value, Part):
            found += schedules(value)
    return found
