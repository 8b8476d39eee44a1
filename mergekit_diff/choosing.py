"""Which plan every block uses while a denoiser runs, and what is noted of it."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from .clock import Clock
from .components import LayerContext
from .gate import Gate
from .guidance import Guidance
from .layouts import Layouts
from .ledger import Call, Ledger, Place
from .plan import Plan
from .planner import Planner
from .recomputing import Plans, Recomputation
from .rows import inside
from .sites import Layout, Site
from .turn import BatchView, Tokens

Observer = Callable[[Tensor, LayerContext, Plan | None, bool], None]


class Chooser:
    """The plans of the call that runs.

    Args:
        planner: makes and keeps them.
        clock: of the session.
        layouts: where the tokens are.
        ledger: where calls are entered once they are over.
        gate: decides where merging pays; None merges wherever possible.
        guidance: which halves of guidance share a plan.
    """

    def __init__(
        self,
        planner: Planner,
        clock: Clock,
        layouts: Layouts,
        ledger: Ledger,
        gate: Gate | None,
        guidance: Guidance,
    ) -> None:
        self.observers: list[Observer] = []
        self.calls: dict[tuple[str, ...], Call] = {}
        self._planner, self._clock, self._layouts, self._ledger, self._gate = planner, clock, layouts, ledger, gate
        self._guidance = guidance
        self._places: dict[tuple[str, str], Place] = {}
        self._left_out: set[str] = set()
        self._running = False
        self._recomputation = Recomputation()

    def begin(self, visits: list[tuple[Place, Tokens]]) -> None:
        """A denoiser is called; decide for these places whether a plan is due."""
        self.calls = {}
        for place, tokens in visits:
            self._visit(place, tokens)
        self._running = True

    def end(self) -> None:
        """It has returned, or raised."""
        self._running = False
        for call in self.calls.values():
            self._ledger.enter(call)

    def forget(self) -> None:
        """The session is over."""
        self._recomputation.clear()
        self._planner.forget()
        self.calls = {}

    def leave_out(self, site: Site) -> None:
        """Its attention cannot be changed where it is computed, so that the site merges nothing from now on."""
        self._left_out.add(site.name)
        unmerged = self.calls.get((site.name, "key_value"))
        if unmerged is not None:
            unmerged.runs = 0
        self._ledger.note(site.name, "left out: its attention does not call scaled_dot_product_attention")

    def for_site(self, site: Site, roles: tuple[str, ...], depth: int, more: Sequence[Site] = ()) -> Callable[..., Plans]:
        """The function that gives a site's hooks its plans, from the block's input and, unless a frame says it, the layout.

        Args:
            site: where the plans are made.
            roles: those of the session.
            depth: the number of sites before it.
            more: the sites whose blocks run on the same merged tokens.
        """
        shared = tuple(role for role in roles if role != "key_value" and site.offers(role))
        own = tuple(role for role in roles if role == "key_value" and site.offers(role))
        places = Place(site, shared, depth, tuple(more)), Place(site, own, depth)
        self._places |= {(site.name, place.roles[0]): place for place in places if place.roles}

        def choose(x: Tensor, layout: Layout | None = None) -> Plans:
            if site.name in self._left_out:
                return None, None
            again = None if self._running else self._recomputation.recall(site, x)
            if again is not None:
                return again
            layout = self._layouts.of(site, x) if layout is None else layout
            tokens = inside(x, layout)
            plans = self._plan(tokens, layout.grid, places[0]), self._plan(tokens, layout.grid, places[1])
            self._recomputation.remember(site, x, plans)
            return plans

        return choose

    def fresh_plan(self, x: Tensor, ctx: LayerContext) -> Plan | None:
        """The plan that would be made here and now for (B, N, C) tokens; it is not used."""
        view = self._view(self._places[ctx.site, ctx.role], len(x))
        return self._planner.plan(x, self._planner.due(ctx, Tokens.of(x, ctx.grid), view))

    def _plan(self, x: Tensor, grid: tuple[int, ...], place: Place) -> Plan | None:
        """The plan for (B, N, C) tokens; in a compiled call, whether one is due was decided before."""
        if not place.roles:
            return None
        call = self.calls.get(place.key)
        if call is None:
            call = self._visit(place, Tokens.of(x, grid), x)
        plan = self._planner.plan(x, call.turn)
        call.runs += 1
        for observer in self.observers:
            observer(x, call.ctx, plan, call.made)
        return call.turn.ready

    def _visit(self, place: Place, tokens: Tokens, x: Tensor | None = None) -> Call:
        ctx = self._planner.context(place.site, place.roles[0], place.depth, tokens.grid)
        turn = self._planner.turn(ctx, tokens, self._view(place, tokens.batch))
        made = turn.due
        if self._gate is not None and made:
            known = self._gate.known(place, tokens)
            if known is None:
                assert x is not None  # a compiled call reaches only places that an eager one has decided
                plan = self._planner.plan(x, turn)  # stays in use if the gate opens
                again = partial(self._planner.plan, x, dataclasses.replace(turn, due=True))
                known = self._gate.decide(place, x, turn.strategy, plan, again)
            self._planner.follow(known, turn)
        self.calls[place.key] = Call(place, ctx, tokens, turn, made and (turn.gate is None or turn.gate["merges"]))
        return self.calls[place.key]

    def _view(self, place: Place, batch: int) -> BatchView:
        """Which rows of a batch decide the plan of a place."""
        together = any(place.site.shares(role) for role in place.roles)
        halves = (1, 0) if self._clock.partial else self._guidance.rows(batch)
        return BatchView(*halves, together)
