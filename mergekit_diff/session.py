"""Merge tokens in a model for a while: ``with merging(pipe, "retom", ratio=0.5) as session: ...``."""

import dataclasses
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .clock import Clock
from .components import LayerContext, MergeStrategy, RatioSchedule, make, one_of, part_class
from .hooks import SiteHooks, argument, first_name
from .plan import MergePlan
from .planner import Planner, schedules
from .report import MergeReport, Tally
from .sites import ROLES, Site, find_sites

SHARE = ("cfg", "grid")
GATES = ("none",)
Plans = tuple[MergePlan | None, MergePlan | None]
_ATTACHED: WeakSet[nn.Module] = WeakSet()


@contextmanager
def merging(target: Any, strategy: Any, **options: Any) -> "Iterator[MergeSession]":  # noqa: ANN401
    """Merge tokens inside a ``with`` block; leaving it, also by an exception, restores the model to the bit.

    Args:
        target: a diffusers pipeline, its denoiser, a ControlNet, or a model of a registered family.
        strategy: a name, a mapping with ``name``, or a strategy.
        **options: those of :class:`MergeSession`; all others are the strategy's settings, such as ``ratio=0.5``.

    Raises:
        ValueError: an unknown name or option, a value out of range, a model with no known sites; in one line.
        RuntimeError: the model is merged already, or was compiled before; with ``strict``, nothing was merged.
    """
    session = attach(target, strategy, **options)
    try:
        yield session
    except BaseException:
        session.remove_hooks()
        raise
    session.detach()


def attach(target: Any, strategy: Any, **options: Any) -> "MergeSession":  # noqa: ANN401
    """As :func:`merging`, until ``session.detach()``."""
    own = {k: options.pop(k) for k in MergeSession.OPTIONS if k in options}
    return MergeSession(target, _strategy(strategy, options), **own)


class MergeSession:
    """Every hook and all that changes while tokens merge in one model.

    Args:
        target: as in :func:`merging`.
        strategy: what chooses the plans.
        roles: any of "self_attention", "key_value", "cross_attention", "feed_forward"; None is the strategy's default.
        refresh: a plan serves this many steps; None is the strategy's default.
        levels: merge on this many of the finest grids; None is the strategy's default, which may be all.
        share: "cfg": rows are [uncond, cond] and the conditional half's plan serves both; "grid": sites of one grid share a
            plan within a step.
        gate: "none".
        seed: of all noise.
        strict: raise where a session that merged nothing would warn.
    """

    OPTIONS = ("roles", "refresh", "levels", "share", "gate", "seed", "strict")

    def __init__(
        self,
        target: Any,  # noqa: ANN401
        strategy: MergeStrategy,
        *,
        roles: Iterable[str] | None = None,
        refresh: int | None = None,
        levels: int | None = None,
        share: Iterable[str] = (),
        gate: str = "none",
        seed: int = 0,
        strict: bool = False,
    ) -> None:
        self.strategy, self.strict = strategy, strict
        self.roles = _words(strategy.roles if roles is None else roles, ROLES, "role")
        self.share = _words(share, SHARE, "share")
        one_of(gate, GATES, "gate")
        self._pipe, self.model = _denoiser(target)
        self._clock = Clock(self._pipe)
        self._levels = _at_least_one(strategy.levels if levels is None else levels, "levels", none=True)
        self._refuse_attached_or_compiled()
        found = find_sites(self.model)
        sites = [s for s in found if self._levels is None or s.level < self._levels]
        self._planner = Planner(
            strategy,
            self._clock,
            num_sites=len(sites),
            refresh=_at_least_one(strategy.refresh if refresh is None else refresh, "refresh") or 1,
            by_grid="grid" in self.share,
            seed=seed,
        )
        self._tallies = {(s.name, role): Tally(s, role) for s in found for role in self.roles}
        self._grids: dict[nn.Module, tuple[int, ...]] = {}
        self._newest: dict[tuple[str, str], tuple[MergePlan, tuple[int, ...]]] = {}
        self._handles: list[RemovableHandle] = []
        self._running = False
        self._ran: dict[tuple[str, int], Plans] = {}
        self._note_left_out(found, sites)
        try:
            self._attach(sites)
        except BaseException:
            self.remove_hooks()
            raise

    def report(self) -> MergeReport:
        """What was merged so far: asked, granted and why not, for every site."""
        return MergeReport(list(self._tallies.values()))

    def plans(self) -> dict[tuple[str, str], tuple[MergePlan, tuple[int, ...]]]:
        """The newest plan, with its grid, of every (site, role) that had one."""
        return dict(self._newest)

    def new_image(self) -> None:
        """Say that the next call belongs to another image; only a bare denoiser in a loop of one's own can need it."""
        self._clock.start_image()

    def detach(self) -> None:
        """Restore the model; warns, or raises with ``strict``, if no token was merged.

        Raises:
            RuntimeError: with ``strict``, nothing was merged.
        """
        if not self._handles:
            return
        self.remove_hooks()
        report = self.report()
        if report.merged:
            return
        reasons = dict.fromkeys(row["note"] for row in report.to_dicts() if row["note"])
        message = f"no token was merged in {type(self.model).__name__}: {'; '.join(reasons)}"
        if self.strict:
            raise RuntimeError(message)
        warnings.warn(message, stacklevel=3)

    def remove_hooks(self) -> None:
        """Restore the model without a word."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._ran = [], {}
        _ATTACHED.discard(self.model)

    def _refuse_attached_or_compiled(self) -> None:
        if self.model in _ATTACHED:
            raise RuntimeError(f"another session merges in this {type(self.model).__name__} already; leave that one first")
        if any(getattr(m, "_compiled_call_impl", None) is not None or hasattr(m, "_orig_mod") for m in self.model.modules()):
            raise RuntimeError(f"this {type(self.model).__name__} was compiled before: a compiled model ignores hooks")

    def _attach(self, sites: list[Site]) -> None:
        _ATTACHED.add(self.model)
        names = list(inspect.signature(self.model.forward).parameters)
        place = names.index("timestep") if "timestep" in names else None

        def on_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if place is None:
                self._clock.start_image()
            self._clock.tick(0.0 if place is None else argument(args, kwargs, place, "timestep"))
            self._running = True

        def on_return(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
            self._running = False

        self._handles.append(self.model.register_forward_pre_hook(on_call, with_kwargs=True))
        self._handles.append(self.model.register_forward_hook(on_return, always_call=True))
        for site in sites:
            self._read_grid(site)
        for depth, site in enumerate(sites):
            self._handles += SiteHooks(site, self.roles, self._chooser(site, depth)).attach()

    def _read_grid(self, site: Site) -> None:
        frame = site.frame
        if frame is None or frame in self._grids:
            return
        self._grids[frame] = ()
        name = first_name(frame)

        def on_frame(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._grids[frame] = site.grid(argument(args, kwargs, 0, name))

        self._handles.append(frame.register_forward_pre_hook(on_frame, with_kwargs=True))

    def _chooser(self, site: Site, depth: int) -> Callable[[Tensor], Plans]:
        shared = [role for role in self.roles if role != "key_value" and role in site.roles]
        own = [role for role in self.roles if role == "key_value" and "self_attention" in site.roles]

        def choose(x: Tensor) -> Plans:
            may_recompute = torch.is_grad_enabled() and not torch.compiler.is_compiling()
            call = (site.name, x.data_ptr()) if may_recompute else ("", 0)
            if not self._running and call in self._ran:  # gradient checkpointing runs a block again during backward
                return self._ran[call]
            grid = (x.shape[1],) if site.frame is None else self._grids[site.frame]
            plans = self._choose(x, site, shared, depth, grid), self._choose(x, site, own, depth, grid)
            if may_recompute:
                self._ran[call] = plans
            return plans

        return choose

    def _choose(self, x: Tensor, site: Site, roles: list[str], depth: int, grid: tuple[int, ...]) -> MergePlan | None:
        if not roles:
            return None
        ctx = self._planner.context(site, roles[0], depth, grid)
        plan, made = self._planner.plan(x, ctx, self._halves(len(x)))
        merges = plan is not None and plan.num_groups < plan.num_tokens
        ratio = getattr(self.strategy, "ratio", None)
        asked = ratio(ctx) if isinstance(ratio, RatioSchedule) else None
        for role in roles:
            tally = self._tallies[site.name, role]
            tally.plans += made
            after = plan.num_groups if plan is not None else x.shape[1]
            tally.count(grid, ctx.step, x.shape[1], after, asked)
            if made:
                self._note(tally, ctx, plan)
            if plan is not None and merges:
                self._newest[site.name, role] = (plan, grid)
        return plan if merges else None

    def _halves(self, batch: int) -> int:
        guided = "cfg" in self.share and getattr(self._pipe, "do_classifier_free_guidance", True)
        if guided and batch % 2:
            raise ValueError(f"share='cfg' takes rows [uncond, cond], so an even batch; given {batch}")
        return 2 if guided else 1

    def _note(self, tally: Tally, ctx: LayerContext, plan: MergePlan | None) -> None:
        if plan is None:
            tally.notes["the strategy left it alone"] = None
        elif plan.num_groups == plan.num_tokens:
            tally.notes["every token was kept (M = N)"] = None
        if self.strategy.batch_shared:
            tally.notes["batch-shared"] = None
        for schedule in schedules(self.strategy):
            size = schedule(ctx)
            if isinstance(size, tuple) and any(s > g for s, g in zip(size, ctx.grid, strict=True)):
                cut = tuple(min(s, g) for s, g in zip(size, ctx.grid, strict=True))
                tally.notes[f"window {_times(size)} cut to {_times(cut)}"] = None

    def _note_left_out(self, found: list[Site], sites: list[Site]) -> None:
        for (name, role), tally in self._tallies.items():
            if name not in {s.name for s in sites}:
                tally.notes[f"level {tally.site.level} is left out (levels={self._levels})"] = None
            elif role not in tally.site.roles and role != "key_value":
                tally.notes[f"this block has no {role}"] = None


def _strategy(spec: Any, settings: Mapping[str, Any]) -> MergeStrategy:  # noqa: ANN401
    """The strategy that ``spec`` means, with further settings; an unknown one is told from the session's own options."""
    if isinstance(spec, MergeStrategy):
        for name in settings:
            one_of(name, [f.name for f in dataclasses.fields(spec)] + list(MergeSession.OPTIONS), "option")
        return dataclasses.replace(spec, **settings)
    spec = {"name": spec} if isinstance(spec, str) else spec
    if not isinstance(spec, Mapping) or "name" not in spec:
        return make("strategy", spec)
    known = inspect.signature(part_class("strategy", str(spec["name"]))).parameters
    for name in settings:
        one_of(name, [*known, *MergeSession.OPTIONS], "option")
    return make("strategy", {**spec, **settings})


def _denoiser(target: Any) -> tuple[Any, nn.Module]:  # noqa: ANN401
    """The pipeline, if ``target`` is one, and the module whose sites are merged."""
    if isinstance(target, nn.Module):
        return None, target
    for part in ("unet", "transformer"):
        if isinstance(getattr(target, part, None), nn.Module):
            return target, getattr(target, part)
    raise ValueError(f"a pipeline with a unet or transformer, or a model, can be merged; given {type(target).__name__}")


def _words(given: Iterable[str], possible: tuple[str, ...], what: str) -> tuple[str, ...]:
    words = (given,) if isinstance(given, str) else tuple(given)
    return tuple(one_of(word, possible, what) for word in words)


def _at_least_one(value: int | None, what: str, none: bool = False) -> int | None:
    if (value is None and none) or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"{what} is a whole number of at least 1{' or None' if none else ''}; given {value!r}")


def _times(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))
