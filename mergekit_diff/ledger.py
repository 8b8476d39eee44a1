"""What happened in every call of a site, recorded once the denoiser has returned: numbers and notes for the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from .components import LayerContext, MergeStrategy, RatioSchedule, WindowSchedule
from .plan import Plan, serves
from .report import MergeReport, Tally
from .settling import schedules
from .shortfall import cut, shortfall, sides
from .sites import Site
from .turn import Tokens, Turn


@dataclass(frozen=True)
class Place:
    """A site and the roles in it that share a plan.

    Args:
        site: where the plan is made.
        roles: those that share it.
        depth: the number of sites before it.
        more: the sites whose blocks run on the same merged tokens.
    """

    site: Site
    roles: tuple[str, ...]
    depth: int
    more: tuple[Site, ...] = ()

    @property
    def key(self) -> tuple[str, ...]:
        """Site name and roles."""
        return self.site.name, *self.roles


@dataclass
class Call:
    """A place in one call of the denoiser.

    Args:
        place: where.
        ctx: where and when, without noise.
        tokens: layout of the block's input.
        turn: the plan in use, or the one that is due.
        made: whether the plan is made in this call.
        runs: how often the block ran in this call.
    """

    place: Place
    ctx: LayerContext
    tokens: Tokens
    turn: Turn
    made: bool
    runs: int = 0


class Ledger:
    """The tallies of a session.

    Args:
        strategy: its schedules give the ratio asked for.
        sites: all sites of the model.
        roles: those of the session.
    """

    def __init__(self, strategy: MergeStrategy, sites: Sequence[Site], roles: Sequence[str]) -> None:
        self.strategy = strategy
        self.newest: dict[tuple[str, str], tuple[Plan, tuple[int, ...]]] = {}
        self._tallies = {(s.name, role): Tally(s, role) for s in sites for role in roles}

    def report(self, recorded: Mapping[str, int]) -> MergeReport:
        """The table for :meth:`MergeSession.report`, with the most bytes that each signal took."""
        return MergeReport(list(self._tallies.values()), recorded)

    def enter(self, call: Call) -> None:
        """Count one call, unless the block did not run or failed to plan."""
        if call.runs == 0:
            return
        plan, grid, before = call.turn.plan, call.tokens.grid, call.tokens.number
        ratio = getattr(self.strategy, "ratio", None)
        asked = ratio(call.ctx) if isinstance(ratio, RatioSchedule) else None
        for site, role in product((call.place.site, *call.place.more), call.place.roles):
            after = before if plan is None or not serves(plan, role) else plan.num_groups
            tally = self._tallies[site.name, role]
            tally.plans += call.made and site is call.place.site
            for _ in range(call.runs):
                tally.count(grid, call.ctx.step, before, after, asked)
            tally.gate = call.turn.gate
            if call.made:
                tally.planned.add(call.ctx.step)
                self._note(tally, call, plan)
            if call.made and asked is not None and (reason := shortfall(self.strategy, call.ctx, before, after, asked)):
                tally.short[reason] = None
            if plan is not None and after < before:
                self.newest[site.name, role] = (plan, grid)

    def note_left_out(self, merged: set[str], levels: int | None) -> None:
        """Note why nothing happens at the sites that are not in ``merged``, and in roles that a block does not have."""
        for (name, role), tally in self._tallies.items():
            if not tally.site.offers(role):
                tally.notes[tally.site.lacks(role)] = None
            elif name not in merged:
                tally.notes[f"level {tally.site.level} is left out (levels={levels})"] = None

    def note_replaced(self, default: Sequence[str]) -> None:
        """Note which of the strategy's default roles no site offers."""
        roles = {role for _, role in self._tallies}
        for role in (role for role in default if role not in roles):
            for tally in self._tallies.values():
                tally.notes[f"instead of {role}: {tally.site.lacks(role)}"] = None

    def note(self, site: str, reason: str) -> None:
        """Note what happened at a site."""
        for (name, _), tally in self._tallies.items():
            if name == site:
                tally.notes[reason] = None

    def _note(self, tally: Tally, call: Call, plan: Plan | None) -> None:
        ctx = call.ctx
        if plan is None:
            tally.notes["the strategy left it alone"] = None
        elif plan.num_groups == plan.num_tokens:
            tally.notes["every token was kept (M = N)"] = None
        if self.strategy.batch_shared or (call.turn.view.together and call.tokens.batch > 1):
            tally.notes["batch-shared"] = None
        for schedule in schedules(self.strategy):
            if isinstance(schedule, WindowSchedule) and (size := schedule(ctx)) != (inside := cut(schedule, ctx)):
                tally.notes[f"window {sides(size)} cut to {sides(inside)}"] = None
