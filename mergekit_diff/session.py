"""The hooks in a model, and all state while its tokens merge."""

import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any
from weakref import WeakSet

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .beside import check_caches
from .cache_hooks import CacheHooks
from .caches import WHOLE, check_options
from .choosing import Chooser, Observer
from .clock import Clock
from .compiling import Compiled, inputs_of
from .components import LayerContext, MergeStrategy
from .denoisers import Denoiser, offered
from .gate import Decision, Gate
from .guidance import Guidance
from .hooks import SiteHooks
from .layouts import Layouts
from .ledger import Ledger
from .options import Options
from .plan import Plan
from .planner import Planner
from .recomputing import Plans
from .recording import Records, check_recorded
from .refreshing import checked
from .report import MergeReport
from .shadow import Compare, Shadow, check_shadow
from .signals import asked
from .sites import Site
from .spans import check_span, spans
from .target import denoisers_of, is_compiled

_ATTACHED: WeakSet[nn.Module] = WeakSet()


class MergeSession:
    """The hooks in a model, and all state while its tokens merge; a context manager that restores the model.

    Args:
        target: as in :func:`mergekit_diff.merging`.
        strategy: makes the plans.
        options: how it is applied.
    """

    def __init__(self, target: Any, strategy: MergeStrategy, options: Options) -> None:  # noqa: ANN401
        self.strategy, self.options = strategy, options.filled(strategy)
        self._pipe, models = denoisers_of(target)
        self.model = next(iter(models.values()))
        for model in models.values():
            _refuse_attached_or_compiled(model)
        self._denoisers = [Denoiser.of(model, name if len(models) > 1 else "") for name, model in models.items()]
        family, found = self._denoisers[0].family, [site for denoiser in self._denoisers for site in denoiser.sites]
        self._clock = Clock(self._pipe, family.time)
        self._roles = offered(found, None if options.roles is None else tuple(options.roles), tuple(self.options.roles or ()))
        chosen = [denoiser.chosen(self.options.levels, self._roles) for denoiser in self._denoisers]
        self._sites = sites = [site for group in chosen for site in group]
        check_caches(sites, self._roles)
        refresh, share = checked(self.options.refresh or 1), tuple(self.options.share or ())
        guidance = Guidance(self._pipe, family.guidance, "cfg" in share, asked=options.share is not None)
        self._is_causal = any(site.cache is not None for site in sites)
        check_recorded(strategy, family.channels, causal=self._is_causal)
        self._records = Records(asked(strategy), self._clock, guidance)
        check_span(self.options, self._roles, records_outputs=self._records.outputs is not None)
        planner = Planner(
            strategy,
            self._clock,
            sites,
            num_sites=max(map(len, chosen)),
            refresh=refresh,
            by_grid="grid" in share,
            guidance=guidance,
            seed=self.options.seed,
            records=self._records,
        )
        steps = refresh if isinstance(refresh, int) else 1
        self._gate = None if self.options.gate == "none" else Gate(self.options.gate, steps, self.options.proportional)
        self._ledger = Ledger(strategy, found, self._roles)
        self._ledger.note_left_out({site.name for site in sites}, self.options.levels)
        self._ledger.note_replaced(tuple(self.options.roles or ()))
        self._layouts = Layouts(sites, "block" in self._roles, self.options.span)
        check_options(options, causal=self._is_causal)
        self._chooser = Chooser(planner, self._clock, self._layouts, self._ledger, self._gate, guidance)
        self._handles: list[RemovableHandle] = []
        self._attached: list[SiteHooks | CacheHooks] = []
        self._is_shadowed = False
        self._compiled: dict[nn.Module, Compiled] = {}
        try:
            self._attach(chosen)
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
        return self._ledger.report(self._records.most)

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
        self._chooser.observers.append(observer)

    def fresh_plan(self, x: Tensor, ctx: LayerContext) -> Plan | None:
        """The plan that would be made here and now, for an observer to compare with the one in use; it is not used."""
        return self._chooser.fresh_plan(x, ctx)

    def shadow(self, compare: Compare) -> None:
        """Run every block that merges a second time, without merging, and go on with that: the model's output is its own.

        So errors of single layers can be told apart, which otherwise change all that follow. A step takes about twice as long.

        Args:
            compare: called after every block that merged with its site's name and the (B, N, C) tokens of the grid: its input,
                its output with merging, and without.

        Raises:
            RuntimeError: several blocks run on the same merged tokens, keys merge in a cache, the session is compiled, or this
                was called before.
        """
        check_shadow(self.options.span, self._is_causal, bool(self._compiled), self._is_shadowed)
        self._is_shadowed = True
        for hooks in self._attached:
            assert isinstance(hooks, SiteHooks)
            self._handles += Shadow(hooks, compare).attach()

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
            RuntimeError: the session is already compiled, its strategy reads a value on the host, or the model is causal, whose
                keys merge between calls.
        """
        if self._is_causal:
            raise RuntimeError(f"expected a denoiser to compile, got {type(self.model).__name__}, whose keys merge in a cache")
        if self._compiled or self._is_shadowed:
            state = "compiled already" if self._compiled else "one whose blocks run a second time, which is done eagerly"
            raise RuntimeError(f"this session is {state}")
        if self.strategy.waits:
            raise RuntimeError(
                f"expected a strategy to compile, got '{self.strategy.name}', which reads a value on the host to plan"
            )
        for denoiser in self._denoisers:
            self._compiled[denoiser.model] = Compiled(denoiser.model, self._is_eager, options)

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
        for compiled in self._compiled.values():
            compiled.put_back()
        self._chooser.forget()
        self._records.clear()
        self._handles, self._compiled = [], {}
        for denoiser in self._denoisers:
            _ATTACHED.discard(denoiser.model)

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

    def _attach(self, chosen: list[list[Site]]) -> None:
        _ATTACHED.update(denoiser.model for denoiser in self._denoisers)
        for denoiser in self._denoisers:
            self._attach_calls(denoiser)
        self._handles += self._layouts.attach([denoiser.model for denoiser in self._denoisers])
        for denoiser, sites in zip(self._denoisers, chosen, strict=True):
            for span in spans(denoiser.sites, self.options.span):
                if span[0] in sites:
                    self._attach_span(span, depth=sites.index(span[0]))

    def _attach_calls(self, denoiser: Denoiser) -> None:
        inputs: list[Any] = []  # of the call that runs

        def on_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            timestep = denoiser.timestep(args, kwargs)
            if timestep is None:
                self._clock.start_image()
            self._clock.tick(0.0 if timestep is None else timestep, denoiser.batch(args, kwargs), denoiser.scheduler)
            if self._clock.step == 0 and self._clock.call == 0:
                check_caches(self._sites, self._roles)
            self._records.begin()
            layouts = self._layouts.begin(module, args, kwargs)
            compiled = self._compiled.get(module)
            if compiled is not None:
                inputs[:] = [inputs_of(layouts, args, kwargs)]
            self._chooser.begin([] if compiled is None else compiled.visits(inputs[0]))

        def on_return(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
            self._chooser.end()
            compiled = self._compiled.get(module)
            if compiled is not None and output is not None:  # None if it raised
                compiled.learn(inputs[0], self._chooser.calls.values())
            if output is not None:
                contexts = [call.turn.ctx for call in self._chooser.calls.values()]
                self._records.end(output, denoiser.family.channels, contexts)
            self._chooser.calls = {}

        self._handles.append(denoiser.model.register_forward_pre_hook(on_call, with_kwargs=True))
        self._handles.append(denoiser.model.register_forward_hook(on_return, always_call=True))

    def _attach_span(self, span: list[Site], depth: int) -> None:
        """Attach hooks to a site, and to those whose blocks run on the tokens that it merges."""
        hooks: SiteHooks | CacheHooks | None = None
        choose = self._chooser.for_site(span[0], self._roles, depth, more=span[1:])
        for site in span:
            hooks = self._hooks(site, choose, previous=hooks)
            self._handles += hooks.attach()
            self._attached.append(hooks)

    def _hooks(self, site: Site, choose: Callable[..., Plans], previous: SiteHooks | CacheHooks | None) -> SiteHooks | CacheHooks:
        if site.cache is not None:
            return CacheHooks(
                site,
                choose,
                proportional=self.options.proportional is not False,
                rotary=self.options.rotary or "values",
                whole=self.options.whole or WHOLE,
                note=lambda reason: self._ledger.note(site.name, reason),
            )
        return SiteHooks(
            site,
            self._roles,
            choose,
            lambda x: self._layouts.of(site, x),
            proportional=self.options.proportional,
            rotary=self.options.rotary or "values",
            bypassed=lambda: self._chooser.leave_out(site),
            outputs=self._records.outputs,
            previous=previous if isinstance(previous, SiteHooks) else None,
        )

    def _is_eager(self) -> bool:
        """Whether the call that runs must not be compiled."""
        return not self._chooser.calls or bool(self._chooser.observers)


def _refuse_attached_or_compiled(model: nn.Module) -> None:
    name = type(model).__name__
    if model in _ATTACHED:
        raise RuntimeError(f"another session already merges in this {name}; leave that one first")
    if is_compiled(model):
        raise RuntimeError(f"this {name} was compiled before, so hooks are ignored; session.compile() compiles it with merging")
