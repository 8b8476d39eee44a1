"""Whether merging pays at a site: the time that it saves against what planning and moving tokens cost, on this device."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .components import MergeStrategy
from .ledger import Place
from .plan import Plan
from .sources import library, sources
from .speed import Speed, seconds_of_plan, speed
from .turn import Tokens

MARGIN = 1.1
"""A site merges only if it saves this many times what it costs, so that a small error of the estimate makes nothing slower."""

Decision = dict[str, Any]
"""``merges``, whether the site does, and ``saves_ms`` and ``costs_ms``, the estimate behind it; JSON can hold it."""


@dataclass(frozen=True)
class Estimate:
    """Milliseconds of one call at one site.

    Args:
        saves: how much less the layers take on merged tokens.
        costs: what merging and unmerging take, and this call's part of planning.
    """

    saves: float
    costs: float

    @property
    def pays(self) -> bool:
        """Whether merging is worth it."""
        return self.saves >= MARGIN * self.costs


class Gate:
    """Decides which sites of a session merge, once for each number of rows and tokens of a place.

    Args:
        decisions: those of an earlier session, by site; "auto" to make them here.
        refresh: how many steps share a plan at most; a ratio or window that changes at every step makes more.
        proportional: whether keys have log sizes; None is where attention is joint.
    """

    def __init__(self, decisions: str | Mapping[str, Mapping[str, Any]], refresh: int, proportional: bool | None = False) -> None:
        self.refresh, self.proportional = refresh, proportional
        self.decided: dict[str, Decision] = {} if isinstance(decisions, str) else {k: dict(v) for k, v in decisions.items()}

    def known(self, place: Place, tokens: Tokens) -> Decision | None:
        """The decision about such tokens at a place; None if there is none yet."""
        return self.decided.get(_key(place, tokens.batch, tokens.number))

    def decide(
        self, place: Place, x: Tensor, strategy: MergeStrategy, plan: Plan | None, again: Callable[[], object]
    ) -> Decision:
        """Weigh what merging saves against what it costs, and remember the outcome.

        Args:
            place: where.
            x: (B, N, C) tokens.
            strategy: what chose the plan.
            plan: the plan for ``x``.
            again: makes the plan once more, to be timed.
        """
        weighed = Estimate(0.0, 0.0)  # if the strategy merges nothing, for which the report has a reason
        if plan is not None and plan.num_groups < plan.num_tokens:
            planning = seconds_of_plan(f"{strategy!r}, code {_code(strategy)}", x, again)
            sized = place.site.joint if self.proportional is None else self.proportional
            weighed = estimate(place, x, plan, planning / self.refresh, sized)
        decision = {"merges": weighed.pays, "saves_ms": round(weighed.saves, 4), "costs_ms": round(weighed.costs, 4)}
        self.decided[_key(place, *x.shape[:2])] = decision
        return decision


def estimate(place: Place, x: Tensor, plan: Plan, planning: float, sized: bool = False) -> Estimate:
    """What merging by ``plan`` saves and costs here, on this device.

    Args:
        place: where.
        x: (B, N, C) tokens.
        plan: which of them merge.
        planning: seconds of planning that fall to one call.
        sized: whether the merged keys have log sizes, which slow attention down.
    """
    rates = speed(x.device, x.dtype)
    saved = sum(_saved(place, role, plan, x, rates, sized) for role in place.roles)
    moved = len(place.roles) * (rates.call + rates.move * x.numel() * x.element_size())
    return Estimate(1000 * saved, 1000 * (planning + moved))


def _key(place: Place, batch: int, tokens: int) -> str:
    return f"{'/'.join(place.key)} {batch}x{tokens}"


def _code(strategy: MergeStrategy) -> str:
    """A hash of the code of a strategy and of this library, so that a plan is timed anew when either changes."""
    return hashlib.sha256("\0".join([*sources(strategy), library()]).encode()).hexdigest()[:12]


def _saved(place: Place, role: str, plan: Plan, x: Tensor, rates: Speed, sized: bool) -> float:
    """Seconds that merging saves in one layer: linear maps run over fewer tokens, attention over fewer pairs."""
    site = place.site
    if role == "block":
        return sum(_saved(place, part, plan, x, rates, sized) for part in site.roles if part != "block")
    batch, n, width = x.shape
    m = plan.num_groups
    left = {"self_attention": m * m, "key_value": n * m}.get(role, n * n) if site.key_bias is not None else n * n
    paired = (n * n - left) * rates.attention - (left * rates.sized if sized and left < n * n else 0.0)
    of_words = {"self_attention": None, "key_value": True, "cross_attention": False, "feed_forward": None}[role]

    def counts(name: str) -> bool:
        if role == "key_value" and site.key_value is None:
            return False  # keys and values merge after they are projected
        return of_words is None or (name.split(".")[0] in site.key_value_maps) is of_words

    parts = site.parts(role)
    weights = sum(_weights(part, counts) for part in parts)
    return 2 * batch * (n - m) * weights * rates.linear + 4 * batch * width * paired * len(parts)


def _weights(module: nn.Module, counts: Callable[[str], bool]) -> int:
    """Elements of the weights of a module's linear maps."""
    return sum(part.weight.numel() for name, part in module.named_modules() if isinstance(part, nn.Linear) and counts(name))
