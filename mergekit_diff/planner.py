"""Plans of a session: made when they are too old, kept in between, shared where asked."""

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .clock import Clock
from .components import LayerContext, MergeStrategy, RatioSchedule
from .plan import MergePlan
from .settling import schedules, settled
from .sites import Site


@dataclass(frozen=True)
class Tokens:
    """What a site is given, before its values are looked at."""

    grid: tuple[int, ...]
    batch: int
    number: int
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, x: Tensor, grid: tuple[int, ...]) -> "Tokens":
        """Those of (B, N, C) tokens on a grid."""
        return cls(grid, x.shape[0], x.shape[1], x.dtype, x.device)


@dataclass
class Turn:
    """A plan that is due, or one that was made and holds: from what it is made, and all that decides how long it holds.

    Args:
        strategy: chooses; its schedules stand still at what they returned for ``ctx``.
        ctx: where and when the plan is made, with its noise.
        halves: 2 if the rows are [uncond, cond] and the plan comes from the conditional half alone, else 1.
        tokens: what the plan is for.
        image: of which it is.
        settings: what the schedules returned.
        checked: the last step at which it was found to hold.
        due: whether it is still to be made.
        gate: what a gate decided about it.
    """

    strategy: MergeStrategy
    ctx: LayerContext
    halves: int
    tokens: Tokens
    image: int
    settings: tuple[Any, ...]
    checked: int
    due: bool = True
    plan: MergePlan | None = None
    gate: Mapping[str, Any] | None = None


class Planner:
    """Says whose turn it is to be planned, asks the strategy, and keeps the plans.

    A plan holds while it is younger than ``refresh`` steps, its image, shape, batch, dtype and device are the same, and the
    strategy's schedules return what it was made with. Whether it does is settled by :meth:`turn`, from numbers; :meth:`plan`
    then computes with tensors only, so that it can be compiled.

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
        self._kept: dict[tuple[Any, ...], Turn] = {}
        self._settled: dict[tuple[Any, ...], MergeStrategy] = {}

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

    def turn(self, ctx: LayerContext, tokens: Tokens, halves: int) -> Turn:
        """The plan that holds here and now, or one that is due.

        Args:
            ctx: from :meth:`context`.
            tokens: what the site is given.
            halves: as in :class:`Turn`.

        Raises:
            ValueError: the grid does not hold the tokens.
        """
        if math.prod(tokens.grid) != tokens.number:
            raise ValueError(f"{ctx.site}: {tokens.number} tokens do not lie on a grid of {tokens.grid}")
        key = (ctx.grid if self.by_grid else ctx.site, self.clock.call, ctx.role)
        settings, kept = self._settings(ctx), self._kept.get(key)
        if kept is not None and self._holds(kept, ctx, settings, (tokens, halves)):
            kept.checked = ctx.step
            return kept
        self._kept[key] = self._due(ctx, tokens, halves, settings)
        return self._kept[key]

    @torch.no_grad()
    def plan(self, x: Tensor, turn: Turn) -> MergePlan | None:
        """The plan of a turn for (B, N, C) tokens, made if it is due."""
        if turn.due:
            turn.plan = make_plan(x, turn)
            turn.due = False
        return turn.plan

    @torch.no_grad()
    def fresh(self, x: Tensor, ctx: LayerContext, halves: int) -> MergePlan | None:
        """A plan made here and now, which is not kept."""
        return make_plan(x, self._due(ctx, Tokens.of(x, ctx.grid), halves, self._settings(ctx)))

    def _settings(self, ctx: LayerContext) -> tuple[Any, ...]:
        """What the strategy's schedules return here and now."""
        return tuple(s(ctx) if isinstance(s, RatioSchedule) else (s(ctx), s.offset(ctx)) for s in schedules(self.strategy))

    def _due(self, ctx: LayerContext, tokens: Tokens, halves: int, settings: tuple[Any, ...]) -> Turn:
        if settings not in self._settled:
            self._settled[settings] = settled(self.strategy, ctx)
        ctx = dataclasses.replace(ctx, noise=self._noise(ctx, tokens.number).to(tokens.device))
        return Turn(self._settled[settings], ctx, halves, tokens, self.clock.image, settings, ctx.step)

    def _holds(self, kept: Turn, ctx: LayerContext, settings: tuple[Any, ...], given: tuple[Tokens, int]) -> bool:
        if kept.image != self.clock.image or (kept.tokens, kept.halves) != given:
            return False
        if kept.ctx.site != ctx.site:  # shared by grid: the first site of it ran earlier in this step and saw to it
            return kept.checked == ctx.step
        return ctx.step - kept.ctx.step < self.refresh and kept.settings == settings

    def _noise(self, ctx: LayerContext, n: int) -> Tensor:
        digest = hashlib.blake2b(f"{self.seed}/{ctx.step}/{ctx.site}".encode(), digest_size=7).digest()
        return torch.rand(n, generator=torch.Generator().manual_seed(int.from_bytes(digest, "big")))


def make_plan(x: Tensor, turn: Turn) -> MergePlan | None:
    """The strategy's plan for (B, N, C) tokens, ready to be applied."""
    plan = turn.strategy.plan(x[len(x) // turn.halves * (turn.halves - 1) :], turn.ctx)
    if plan is None or plan.num_groups == plan.num_tokens:
        return plan
    return plan.prepared(len(x))
