"""The plans of a session: made anew when they are too old, kept in between, shared on request."""

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from .clock import Clock
from .components import LayerContext, MergeStrategy, RatioSchedule
from .guidance import Guidance
from .plan import MergePlan, Plan, as_ready
from .recording import Records
from .settling import schedules, settled
from .signals import Signals
from .sites import Site
from .soft import SoftPlan


@dataclass(frozen=True)
class Tokens:
    """The layout of a block's input; its values do not matter here."""

    grid: tuple[int, ...]
    batch: int
    number: int
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, x: Tensor, grid: tuple[int, ...]) -> "Tokens":
        """The layout of (B, N, C) tokens on a grid."""
        return cls(grid, x.shape[0], x.shape[1], x.dtype, x.device)


@dataclass(frozen=True)
class BatchView:
    """Which rows of a batch a strategy sees.

    Args:
        parts: 2 if the rows are the halves of guidance and the plan comes from one of them alone, else 1.
        part: which of them.
        together: whether these rows get one plan, from all of them: then it gets them as one row of longer tokens.
    """

    parts: int = 1
    part: int = 0
    together: bool = False

    def rows(self, x: Tensor) -> Tensor:
        """The rows of (B, N, C) tokens whose plan is asked for."""
        size = len(x) // self.parts
        return x[size * self.part : size * (self.part + 1)]

    def folded(self, rows: Tensor) -> Tensor:
        """(1, N, B * C) if the rows get one plan, else the same (B, N, C)."""
        return rearrange(rows, "b n c -> 1 n (b c)") if self.together and len(rows) > 1 else rows


@dataclass
class Turn:
    """A plan that is due or in use: what it is made from, and what decides how long it is used. Only the planner writes it.

    Args:
        strategy: makes the plan; its schedules are replaced by what they returned for ``ctx``.
        ctx: where and when the plan is made, with its noise.
        view: the rows that the strategy sees.
        tokens: the layout that the plan is for.
        image: index of the image that it was made for.
        settings: what the schedules returned.
        checked: the last step at which it was found valid.
        due: whether it has yet to be made.
        plan: what the strategy chose, for every row of the batch.
        chosen: the same for the rows that the strategy saw, if it asks for ``last_plan`` or ``age``.
        since: the step of the last plan that was made without ``last_plan``; this one or an earlier one.
        ready: the plan in the form that hooks apply; None where no token merges.
        gate: what a gate decided about it.
    """

    strategy: MergeStrategy
    ctx: LayerContext
    view: BatchView
    tokens: Tokens
    image: int
    settings: tuple[Any, ...]
    checked: int
    since: int
    due: bool = True
    plan: Plan | None = None
    chosen: Plan | None = None
    ready: Plan | None = None
    gate: Mapping[str, Any] | None = None


class Planner:
    """Decides where a plan is due, asks the strategy for it, and keeps it.

    A plan is used while it is younger than ``refresh`` steps, image, shape, batch, dtype and device stay the same, and the
    strategy's schedules still return what it was made with. :meth:`turn` decides that from plain numbers, so that :meth:`plan`
    computes with tensors alone and can be compiled.

    Args:
        strategy: makes the plans.
        clock: gives image, step and call.
        sites: those of the session.
        refresh: the age in steps at which a plan is made anew.
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
        refresh: int,
        by_grid: bool,
        guidance: Guidance,
        seed: int,
        records: Records,
    ) -> None:
        self.strategy, self.clock, self.num_sites, self.refresh = strategy, clock, num_sites, refresh
        self.by_grid, self.guidance, self.seed = by_grid, guidance, seed
        self._signals = Signals(strategy, sites, records)
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
            noise=torch.empty(0),
            still=torch.empty(0),
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
        if kept is not None and self._holds(kept, ctx, (tokens, view)):
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
        last, since = self._last(ctx, (tokens, view), settings)
        if last is not None:
            strategy = strategy.after(last)
            strategy = self._settled.setdefault((strategy,), strategy)  # the same object again needs no new graph
        signals = self._signals.recorded(ctx, tokens.batch, view.rows, view.together)
        age = self._age(ctx, tokens, view)
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

    def _last(self, ctx: LayerContext, layout: tuple[Tokens, BatchView], settings: tuple[Any, ...]) -> tuple[Plan | None, int]:
        """The plan to give as ``last_plan``, and the step since which such plans have been given in turn."""
        kept = self._kept.get(self._key(ctx)) if "last_plan" in self._signals.words else None
        if kept is None or kept.image != self.clock.image or (kept.tokens, kept.view) != layout:
            return None, ctx.step
        if _windows(kept.settings) != _windows(settings):
            return None, ctx.step
        if kept.ctx.step == ctx.step:  # this step's plan is made again, for an observer
            return kept.ctx.signals.get("last_plan"), kept.since
        memory = self.strategy.memory
        if kept.chosen is None or (memory is not None and ctx.step - kept.since >= memory):
            return None, ctx.step
        return kept.chosen, kept.since

    def _age(self, ctx: LayerContext, tokens: Tokens, view: BatchView) -> Tensor | None:
        """(rows that the strategy sees, N) steps since each token was last alone in its group; None before the first plan."""
        kept = self._kept.get(self._key(ctx)) if "age" in self._signals.words else None
        if kept is None or kept.image != self.clock.image or (kept.tokens, kept.view) != (tokens, view):
            return None
        age, plan = kept.ctx.signals.get("age"), kept.chosen
        if kept.ctx.step == ctx.step:
            return age
        rows = 1 if view.together else tokens.batch // view.parts
        if plan is None:
            return torch.zeros(rows, tokens.number, device=tokens.device)
        if not isinstance(plan, MergePlan):
            raise ValueError(f"'age': expected a strategy whose plans are partitions, got {type(plan).__name__}")
        older = ctx.step - kept.ctx.step + (0.0 if age is None else age)
        shared = plan.sizes.gather(1, plan.assign) > 1
        return torch.where(shared, older, 0.0).expand(rows, -1).contiguous()

    def _settings(self, ctx: LayerContext) -> tuple[Any, ...]:
        """What the strategy's schedules return here and now, and which phase it is in."""
        found = [s(ctx) if isinstance(s, RatioSchedule) else (s(ctx), s.offset(ctx)) for s in schedules(self.strategy)]
        now = self.strategy.at(ctx)
        return (*found, None if now is self.strategy else now)

    def _holds(self, kept: Turn, ctx: LayerContext, layout: tuple[Tokens, BatchView]) -> bool:
        if kept.image != self.clock.image or (kept.tokens, kept.view) != layout:
            return False
        if kept.ctx.site != ctx.site:  # shared by grid: the first site of that grid ran earlier in this step and checked it
            return kept.checked == ctx.step
        return ctx.step - kept.ctx.step < self.refresh and kept.settings == self._settings(ctx)

    def _noise(self, words: str, tokens: Tokens) -> Tensor:
        """(N,) uniform in [0, 1), the same for the same words."""
        digest = hashlib.blake2b(words.encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
        return torch.rand(tokens.number, generator=generator).to(tokens.device)


def _windows(settings: tuple[Any, ...]) -> list[Any]:
    """Of what schedules returned, the windows."""
    return [setting for setting in settings if isinstance(setting, tuple)]
