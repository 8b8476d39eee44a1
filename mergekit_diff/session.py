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
from .options import NAMES as OPTIONS
from .options import Options
from .plan import MergePlan
from .planner import Planner, schedules
from .report import MergeReport, Tally
from .sites import Site, find_sites

Plans = tuple[MergePlan | None, MergePlan | None]
Observer = Callable[[Tensor, LayerContext, MergePlan | None, bool], None]
_ATTACHED: WeakSet[nn.Module] = WeakSet()


@contextmanager
def merging(
    target: Any,  # noqa: ANN401
    strategy: Any,  # noqa: ANN401
    *,
    roles: Iterable[str] | None = None,
    refresh: int | None = None,
    levels: int | None = None,
    share: Iterable[str] = (),
    gate: str = "none",
    seed: int = 0,
    strict: bool = False,
    **settings: Any,  # noqa: ANN401
) -> "Iterator[MergeSession]":
    """Merge tokens inside a ``with`` block; leaving it, also by an exception, restores the model to the bit.

    Args:
        target: a diffusers pipeline, its denoiser, a ControlNet, or a model of a registered family.
        strategy: a name, a mapping with ``name``, or a strategy.
        roles: as are the next six, see :class:`mergekit_diff.options.Options`.
        refresh: a plan serves this many steps.
        levels: merge on this many of the finest grids.
        share: "cfg", "grid", both or none.
        gate: "none".
        seed: of all noise.
        strict: raise where a session that merged nothing would warn.
        **settings: the strategy's own, such as ``ratio=0.5``.

    Raises:
        ValueError: an unknown name or option, a value out of range, a model with no known sites; in one line.
        RuntimeError: the model is merged already, or was compiled before; with ``strict``, nothing was merged.
    """
    part = _strategy(strategy, settings)
    session = MergeSession(target, part, Options(roles, refresh, levels, share, gate, seed, strict))
    try:
        yield session
    except BaseException:
        session.remove_hooks()
        raise
    session.detach()


def attach(target: Any, strategy: Any, **options: Any) -> "MergeSession":  # noqa: ANN401
    """As :func:`merging`, with the same arguments, until ``session.detach()``."""
    own = {name: options.pop(name) for name in OPTIONS if name in options}
    return MergeSession(target, _strategy(strategy, options), Options(**own))


class MergeSession:
    """Every hook and all that changes while tokens merge in one model.

    Args:
        target: as in :func:`merging`.
        strategy: what chooses the plans.
        options: how it is applied.
    """

    def __init__(self, target: Any, strategy: MergeStrategy, options: Options) -> None:  # noqa: ANN401
        self.strategy, self.options = strategy, options.filled(strategy)
        self._pipe, self.model = _denoiser(target)
        self._clock = Clock(self._pipe)
        self._refuse_attached_or_compiled()
        self._roles, self._share = tuple(self.options.roles or ()), tuple(self.options.share)
        found, levels = find_sites(self.model), self.options.levels
        sites = [s for s in found if levels is None or s.level < levels]
        self._planner = Planner(
            strategy,
            self._clock,
            num_sites=len(sites),
            refresh=self.options.refresh or 1,
            by_grid="grid" in self._share,
            seed=self.options.seed,
        )
        self._tallies = {(s.name, role): Tally(s, role) for s in found for role in self._roles}
        self._grids: dict[nn.Module, tuple[int, ...]] = {}
        self._newest: dict[tuple[str, str], tuple[MergePlan, tuple[int, ...]]] = {}
        self._handles: list[RemovableHandle] = []
        self._observers: list[Observer] = []
        self._running = False
        self._ran: dict[tuple[str, int], Plans] = {}
        self._note_left_out(sites)
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

    def observe(self, observer: Observer) -> None:
        """Have a function called whenever a site has chosen its plan, for experiments that look on.

        Args:
            observer: called with the block's (B, N, C) input, the context, the plan and whether it was made just now.
        """
        self._observers.append(observer)

    def fresh_plan(self, x: Tensor, ctx: LayerContext) -> MergePlan | None:
        """The plan that would be made here and now, for an observer to compare with the one in use; it changes nothing."""
        return self._planner.fresh(x, ctx, self._halves(len(x)))

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
        if self.options.strict:
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
            self._handles += SiteHooks(site, self._roles, self._chooser(site, depth)).attach()

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
        shared = [role for role in self._roles if role != "key_value" and role in site.roles]
        own = [role for role in self._roles if role == "key_value" and "self_attention" in site.roles]

        def choose(x: Tensor) -> Plans:
            may_recompute = torch.is_grad_enabled() and not torch.compiler.is_compiling()
            call = (site.name, x.data_ptr()) if may_recompute else ("", 0)
            if not self._running and call in self._ran:  # gradient checkpointing runs a block again during backward
                return self._ran[call]
            grid = (x.shape[1],) if site.frame is None else self._grids[site.frame]
            plans = self._choose(x, site, shared, depth, grid), self._choose(x, site, own, depth, grid)
            if may_recompute and (x.requires_grad or any(p.requires_grad for p in site.block.parameters())):
                self._ran[call] = plans
                if x.requires_grad:
                    x.register_hook(lambda _: self._forget(call))
            return plans

        return choose

    def _forget(self, call: tuple[str, int]) -> None:
        """The gradient has come through this block: it is not run again."""
        self._ran.pop(call, None)

    def _choose(self, x: Tensor, site: Site, roles: list[str], depth: int, grid: tuple[int, ...]) -> MergePlan | None:
        if not roles:
            return None
        ctx = self._planner.context(site, roles[0], depth, grid)
        plan, made = self._planner.plan(x, ctx, self._halves(len(x)))
        for observer in self._observers:
            observer(x, ctx, plan, made)
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
        guided = "cfg" in self._share and getattr(self._pipe, "do_classifier_free_guidance", True)
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

    def _note_left_out(self, sites: list[Site]) -> None:
        merged = {site.name for site in sites}
        for (name, role), tally in self._tallies.items():
            if name not in merged:
                tally.notes[f"level {tally.site.level} is left out (levels={self.options.levels})"] = None
            elif role not in tally.site.roles and role != "key_value":
                tally.notes[f"this block has no {role}"] = None


def _strategy(spec: Any, settings: Mapping[str, Any]) -> MergeStrategy:  # noqa: ANN401
    """The strategy that ``spec`` means, with further settings; an unknown one is told from the session's own options."""
    if isinstance(spec, MergeStrategy):
        for name in settings:
            one_of(name, [*(f.name for f in dataclasses.fields(spec)), *OPTIONS], "option")
        return dataclasses.replace(spec, **settings)
    spec = {"name": spec} if isinstance(spec, str) else spec
    if not isinstance(spec, Mapping) or "name" not in spec:
        return make("strategy", spec)
    known = inspect.signature(part_class("strategy", str(spec["name"]))).parameters
    for name in settings:
        one_of(name, [*known, *OPTIONS], "option")
    return make("strategy", {**spec, **settings})


def _denoiser(target: Any) -> tuple[Any, nn.Module]:  # noqa: ANN401
    """The pipeline, if ``target`` is one, and the module whose sites are merged."""
    if isinstance(target, nn.Module):
        return None, target
    for part in ("unet", "transformer"):
        if isinstance(getattr(target, part, None), nn.Module):
            return target, getattr(target, part)
    raise ValueError(f"a pipeline with a unet or transformer, or a model, can be merged; given {type(target).__name__}")


def _times(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))
