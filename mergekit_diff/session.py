"""The hooks in one model, and all state while its tokens merge."""

import dataclasses
import inspect
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any
from weakref import WeakSet

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .clock import Clock
from .compiling import Compiled
from .components import LayerContext, MergeStrategy
from .gate import Decision, Gate
from .hooks import SiteHooks, argument, first_name
from .ledger import Call, Ledger, Place
from .options import Options
from .plan import Plan
from .planner import Planner, Tokens, Turn
from .recomputing import Plans, Recomputation
from .report import MergeReport
from .sites import Site, find_sites
from .target import denoiser_of, is_compiled

Observer = Callable[[Tensor, LayerContext, Plan | None, bool], None]
_ATTACHED: WeakSet[nn.Module] = WeakSet()


class MergeSession:
    """The hooks in one model, and all state while its tokens merge; a context manager that restores the model.

    Args:
        target: as in :func:`mergekit_diff.merging`.
        strategy: makes the plans.
        options: how it is applied.
    """

    def __init__(self, target: Any, strategy: MergeStrategy, options: Options) -> None:  # noqa: ANN401
        self._asked_to_share = options.share is not None
        self.strategy, self.options = strategy, options.filled(strategy)
        self._pipe, self.model = denoiser_of(target)
        self._clock = Clock(self._pipe)
        self._refuse_attached_or_compiled()
        self._roles, self._share = tuple(self.options.roles or ()), tuple(self.options.share or ())
        found, levels = find_sites(self.model), self.options.levels
        sites = [s for s in found if levels is None or s.level < levels]
        self._planner = Planner(
            strategy,
            self._clock,
            sites,
            refresh=self.options.refresh or 1,
            by_grid="grid" in self._share,
            seed=self.options.seed,
        )
        self._gate = None if self.options.gate == "none" else Gate(self.options.gate, self.options.refresh or 1)
        self._ledger = Ledger(strategy, found, self._roles)
        self._ledger.note_left_out({site.name for site in sites}, levels)
        self._grids: dict[nn.Module, tuple[int, ...]] = {}
        self._handles: list[RemovableHandle] = []
        self._observers: list[Observer] = []
        self._running = False
        self._calls: dict[tuple[str, ...], Call] = {}
        self._compiled: Compiled | None = None
        self._recomputation = Recomputation()
        try:
            self._attach(sites)
        except BaseException:
            self.remove_hooks()
            raise

    def __enter__(self) -> "MergeSession":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self._leave()
        else:
            self.remove_hooks()

    def report(self) -> MergeReport:
        """What was merged so far: ratios asked and granted, and the reasons where nothing was, for every site."""
        return self._ledger.report()

    def plans(self) -> dict[tuple[str, str], tuple[Plan, tuple[int, ...]]]:
        """The latest plan, with its grid, of every (site, role) that had one; of the class that the strategy returned."""
        return dict(self._ledger.newest)

    def gates(self) -> dict[str, Decision]:
        """With a gate, its decision for each site, roles and number of tokens, and the milliseconds behind it.

        The value can be written as JSON and passed as ``gate``: that session merges at the same sites, whatever the timing.
        """
        return {} if self._gate is None else dict(self._gate.decided)

    def observe(self, observer: Observer) -> None:
        """Have a function called whenever a site has its plan, for experiments that watch.

        Args:
            observer: called with the block's (B, N, C) input, the context, the plan and whether it was made in this call.
        """
        self._observers.append(observer)

    def fresh_plan(self, x: Tensor, ctx: LayerContext) -> Plan | None:
        """The plan that would be made here and now, for an observer to compare with the one in use; it is not used."""
        return self._planner.plan(x, self._planner.due(ctx, Tokens.of(x, ctx.grid), self._halves(len(x))))

    def new_image(self) -> None:
        """Announce that the next call belongs to a new image; only needed for a bare denoiser in your own loop."""
        self._clock.start_image()

    def compile(self, **options: Any) -> None:  # noqa: ANN401
        """Compile the denoiser's ``forward`` with ``torch.compile``, until the session ends.

        The first call with inputs of new shapes runs eagerly: the session learns from it which places need plans. All calls
        run eagerly while there are observers. With constant ratio and window each shape has two graphs, one that makes the
        plans and one that reuses them, and one more for every further number of kept tokens.

        Args:
            **options: of ``torch.compile``; by default ``fullgraph=True`` and ``dynamic=False``.

        Raises:
            RuntimeError: the session is already compiled.
        """
        if self._compiled is not None:
            raise RuntimeError("this session is compiled already")
        self._compiled = Compiled(self.model, lambda: not self._calls or bool(self._observers), options)

    def detach(self) -> None:
        """Restore the model; warn, or raise with ``strict``, if no token was merged.

        Raises:
            RuntimeError: with ``strict``, nothing was merged.
        """
        self._leave()

    def remove_hooks(self) -> None:
        """Restore the model, without a warning if no token was merged."""
        for handle in self._handles:
            handle.remove()
        if self._compiled is not None:
            self._compiled.put_back()
        self._recomputation.clear()
        self._handles, self._calls, self._compiled = [], {}, None
        _ATTACHED.discard(self.model)

    def _leave(self) -> None:
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
        warnings.warn(message, stacklevel=3)  # the caller of detach, or the line of the with statement

    def _refuse_attached_or_compiled(self) -> None:
        if self.model in _ATTACHED:
            raise RuntimeError(f"another session already merges in this {type(self.model).__name__}; leave that one first")
        if is_compiled(self.model):
            name = type(self.model).__name__
            raise RuntimeError(
                f"this {name} was compiled before, so hooks are ignored; session.compile() compiles it with merging"
            )

    def _attach(self, sites: list[Site]) -> None:
        _ATTACHED.add(self.model)
        names = list(inspect.signature(self.model.forward).parameters)
        place = names.index("timestep") if "timestep" in names else None

        def on_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if place is None:
                self._clock.start_image()
            self._clock.tick(0.0 if place is None else argument(args, kwargs, place, "timestep"))
            self._calls = {}
            if self._compiled is not None:
                for where, tokens in self._compiled.visits(args, kwargs):
                    self._visit(where, tokens)
            self._running = True

        def on_return(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:  # noqa: ANN401
            self._running = False
            for call in self._calls.values():
                self._ledger.enter(call)
            if self._compiled is not None and output is not None:  # None if it raised
                self._compiled.learn(args, kwargs, self._calls.values())
            self._calls = {}

        self._handles.append(self.model.register_forward_pre_hook(on_call, with_kwargs=True))
        self._handles.append(self.model.register_forward_hook(on_return, with_kwargs=True, always_call=True))
        for site in sites:
            self._read_grid(site)
        for depth, site in enumerate(sites):
            self._handles += SiteHooks(site, self._roles, self._chooser(site, depth), bool(self.options.proportional)).attach()

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
        shared = tuple(role for role in self._roles if role != "key_value" and role in site.roles)
        own = tuple(role for role in self._roles if role == "key_value" and "self_attention" in site.roles)
        places = Place(site, shared, depth), Place(site, own, depth)

        def choose(x: Tensor) -> Plans:
            again = None if self._running else self._recomputation.recall(site, x)
            if again is not None:
                return again
            plans = self._plan(x, places[0]), self._plan(x, places[1])
            self._recomputation.remember(site, x, plans)
            return plans

        return choose

    def _plan(self, x: Tensor, place: Place) -> Plan | None:
        """The plan for (B, N, C) tokens; in a compiled call, whether one is due was decided before."""
        if not place.roles:
            return None
        call = self._calls.get(place.key)
        if call is None:
            frame = place.site.frame
            call = self._visit(place, Tokens.of(x, (x.shape[1],) if frame is None else self._grids[frame]), x)
        plan = self._planner.plan(x, call.turn)
        call.runs += 1
        for observer in self._observers:
            observer(x, call.ctx, plan, call.made)
        return call.turn.ready

    def _visit(self, place: Place, tokens: Tokens, x: Tensor | None = None) -> Call:
        ctx = self._planner.context(place.site, place.roles[0], place.depth, tokens.grid)
        turn = self._planner.turn(ctx, tokens, self._halves(tokens.batch))
        made = turn.due
        if self._gate is not None and made:
            self._planner.follow(self._gate.known(place, tokens) or self._decide(self._gate, place, x, turn), turn)
        self._calls[place.key] = Call(place, ctx, tokens, turn, made and (turn.gate is None or turn.gate["merges"]))
        return self._calls[place.key]

    def _decide(self, gate: Gate, place: Place, x: Tensor | None, turn: Turn) -> Decision:
        """The gate's first decision about a place; its estimate needs the plan, which stays in use if the gate opens."""
        assert x is not None  # a compiled call reaches only places that an eager one has decided
        plan = self._planner.plan(x, turn)
        return gate.decide(place, x, turn.strategy, plan, lambda: self._planner.plan(x, dataclasses.replace(turn, due=True)))

    def _halves(self, batch: int) -> int:
        """How many halves of guidance a batch has that share a plan; where no pipeline says, 2 only if the user asked for it."""
        guided = "cfg" in self._share and getattr(self._pipe, "do_classifier_free_guidance", self._asked_to_share)
        if guided and batch % 2 and self._asked_to_share:
            raise ValueError(f"share='cfg': expected rows [uncond, cond], so an even batch; got {batch}")
        return 2 if guided and batch % 2 == 0 else 1
