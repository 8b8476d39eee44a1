"""The plans of a session: made anew when they are too old, kept in between, shared on request."""

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .clock import Clock
from .components import LayerContext, MergeStrategy, RatioSchedule
from .guidance import Guidance
from .plan import MergePlan, Plan, as_ready
from .recording import Records
from .refreshing import Refresh, is_due
from .settling import schedules, settled
from .signals import Signals
from .sites import Site
from .soft import SoftPlan
from .turn import BatchView, Tokens, Turn

UNDRAWN = torch.empty(0)
"""Stands for noise where no plan is due: most contexts are made for a plan that is kept."""


class Planner:
    """Decides where a plan is due, asks the strategy for it, and keeps it.

    A plan is used until ``refresh`` asks for a new one, while image, shape, batch, dtype and device stay the same, and the
    strategy's schedules still return what it was made with. :meth:`turn` decides that from plain numbers, so that :meth:`plan`
    computes with tensors alone and can be compiled.

    Args:
        strategy: makes the plans.
        clock: gives image, step and call.
        sites: those of the session.
        refresh: when plans are made anew.
        num_sites: how many of them one denoiser has.
        by_grid: whether the sites of one grid share the first one's plan within a step.
        guidance: whether all calls of a step share the first one's plan.
        seed: all noise is drawn from (seed, step, site).
        records: what the session records for the strategy.

    Raises:
        ValueError: the strategy asks for a signal that is unknown, or that a site cannot give.
    """

    def __init__(
        self,
        strategy: MergeStrategy,
        clock: Clock,
        sites: Sequence[Site],
        *,
        num_sites: int,
        refresh: Refresh,
        by_grid: bool,
        guidance: Guidance,
        seed: int,
        records: Records,
    ) -> None:
        self.strategy, self.clock, self.num_sites, self.refresh = strategy, clock, num_sites, refresh
        self.by_grid, self.guidance, self.seed = by_grid, guidance, seed
        self._signals, self._schedules = Signals(strategy, sites, records), schedules(strategy)
        self._kept: dict[tuple[Any, ...], Turn] = {}
        self._settled: dict[tuple[Any, ...], MergeStrategy] = {}

    def context(self, site: Site, role: str, depth: int, grid: tuple[int, ...]) -> LayerContext:
        """Where and when; it has no noise and no signals yet."""
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
            noise=UNDRAWN,
            still=UNDRAWN,
        )

    def turn(self, ctx: LayerContext, tokens: Tokens, view: BatchView) -> Turn:
        """The plan to use here and now: one that is still valid, or one that is due.

        Args:
            ctx: from :meth:`context`.
            tokens: layout of the block's input.
            view: as in :class:`Turn`.

        Raises:
            ValueError: the tokens do not fit the grid.
        """
        if math.prod(tokens.grid) != tokens.number:
            raise ValueError(
                f"{ctx.site}: expected {math.prod(tokens.grid)} tokens on a grid of {tokens.grid}, got {tokens.number}"
            )
        key = self._key(ctx)
        kept = self._kept.get(key)
        if kept is not None and self._holds(kept, ctx, tokens, view):
            kept.checked = ctx.step
            return kept
        self._kept[key] = self.due(ctx, tokens, view)
        return self._kept[key]

    def due(self, ctx: LayerContext, tokens: Tokens, view: BatchView) -> Turn:
        """A plan that is due here and now; unlike that of :meth:`turn`, it is not kept."""
        settings = self._settings(ctx)
        if settings not in self._settled:
            self._settled[settings] = settled(self.strategy.at(ctx), ctx)
        strategy = self._settled[settings]
        last, since, age = self._past(ctx, tokens, view, settings)
        if last is not None:
            strategy = strategy.after(last)
            strategy = self._settled.setdefault((strategy,), strategy)  # the same object again needs no new graph
        signals = self._signals.recorded(ctx, tokens.batch, view.rows, view.together)
        ctx = dataclasses.replace(
            ctx,
            noise=self._noise(f"{self.seed}/{ctx.step}/{ctx.site}", tokens),
            still=self._noise(f"{self.seed}/still/{ctx.site}", tokens),
            signals=signals | ({} if last is None else {"last_plan": last}) | ({} if age is None else {"age": age}),
        )
        return Turn(strategy, ctx, view, tokens, self.clock.image, settings, ctx.step, since)

    @torch.no_grad()
    def plan(self, x: Tensor, turn: Turn) -> Plan | None:
        """The plan of a turn for (B, N, C) tokens, made if it is due; this is the only place where plans are made."""
        if turn.due:
            rows = turn.view.rows(x)
            plan = turn.strategy.plan(turn.view.folded(rows), self._signals.added(turn.ctx, rows, turn.view.folded))
            turn.chosen = None if {"last_plan", "age"}.isdisjoint(self._signals.words) else plan
            if isinstance(plan, (MergePlan, SoftPlan)):
                plan = plan.repeat(len(x) // len(plan.rep))
            turn.plan, turn.ready, turn.due = plan, None, False
            if plan is not None and plan.num_groups < plan.num_tokens:
                turn.ready = as_ready(plan, len(x))
        return turn.plan

    def follow(self, decision: Mapping[str, Any], turn: Turn) -> None:
        """Note a gate's decision about a turn, and do without a plan if the gate is closed."""
        turn.gate = decision
        if not decision["merges"]:
            turn.due, turn.plan, turn.chosen, turn.ready = False, None, None, None

    def forget(self) -> None:
        """Let go of all plans."""
        self._kept = {}

    def _key(self, ctx: LayerContext) -> tuple[Any, ...]:
        """What has a plan of its own within a step."""
        return ctx.grid if self.by_grid else ctx.site, 0 if self.guidance.by_step else self.clock.call, ctx.role

    def _past(
        self, ctx: LayerContext, tokens: Tokens, view: BatchView, settings: tuple[Any, ...]
    ) -> tuple[Plan | None, int, Tensor | None]:
        """What a plan that is due is told of the one before: itself and since when, and the tokens' age; None where not asked."""
        words, kept = self._signals.words, self._kept.get(self._key(ctx))
        if kept is None or not kept.fits(self.clock.image, tokens, view):
            return None, ctx.step, None
        age = kept.age(ctx.step) if "age" in words else None
        if "last_plan" not in words or _windows(kept.settings) != _windows(settings):
            return None, ctx.step, age
        return *kept.as_last(ctx.step, self.strategy.memory), age

    def _settings(self, ctx: LayerContext) -> tuple[Any, ...]:
        """What the strategy's schedules return here and now, and which phase it is in."""
        found = [s(ctx) if isinstance(s, RatioSchedule) else (s(ctx), s.offset(ctx)) for s in self._schedules]
        now = self.strategy.at(ctx)
        return (*found, None if now is self.strategy else now)

    def _holds(self, kept: Turn, ctx: LayerContext, tokens: Tokens, view: BatchView) -> bool:
        if not kept.fits(self.clock.image, tokens, view):
            return False
        if kept.ctx.site != ctx.site:  # shared by grid: the first site of that grid ran earlier in this step and checked it
            return kept.checked == ctx.step
        return not is_due(self.refresh, kept.ctx.step, ctx.step) and kept.settings == self._settings(ctx)

    def _noise(self, words: str, tokens: Tokens) -> Tensor:
        """(N,) uniform in [0, 1), the same for the same words."""
        digest = hashlib.blake2b(words.encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
        return torch.rand(tokens.number, generator=generator).to(tokens.device)


def _windows(settings: tuple[Any, ...]) -> list[Any]:
    """Of what schedules returned, the windows."""
    return [setting for setting in settings if isinstance(setting, tuple)]
