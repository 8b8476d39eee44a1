"""Whether merging pays at a site: what it saves against what the plan and the moving cost, from the speed of the device."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .components import MergeStrategy
from .ledger import Place
from .plan import MergePlan
from .planner import Turn, make_plan
from .sources import library, sources
from .speed import seconds_of_plan, speed

MARGIN = 1.1
"""A site merges if this many times its costs are saved: a prediction that is a little wrong makes nothing slower."""


@dataclass(frozen=True)
class Prediction:
    """Milliseconds of one call at one site.

    Args:
        saves: what the layers take less on merged tokens.
        costs: merging, unmerging and the share of a plan.
    """

    saves: float
    costs: float

    @property
    def pays(self) -> bool:
        """Whether merging is worth it."""
        return self.saves >= MARGIN * self.costs


class Gate:
    """Opens and closes the sites of a session.

    Args:
        decisions: those of an earlier session, by site; "auto" to make them here.
        refresh: how many steps share a plan at most; a ratio or window that changes at every step makes more.
    """

    def __init__(self, decisions: str | Mapping[str, Mapping[str, Any]], refresh: int) -> None:
        self.refresh = refresh
        self.decided: dict[str, dict[str, Any]] = {} if isinstance(decisions, str) else {k: dict(v) for k, v in decisions.items()}

    def pass_on(self, place: Place, x: Tensor | None, turn: Turn) -> None:
        """Leave a plan due, or do without; decided once for each number of rows and tokens of a place, at its first plan.

        Args:
            place: where.
            x: (B, N, C) tokens; None if it was decided before.
            turn: whose plan is due; where it has to be made to decide, it stays.
        """
        key = f"{'/'.join(place.key)} {turn.tokens.batch}x{turn.tokens.number}"
        if key not in self.decided:
            assert x is not None
            found = predict(place, x, turn, self.refresh)
            numbers = {"saves_ms": round(found.saves, 4), "costs_ms": round(found.costs, 4)}
            self.decided[key] = {"merges": found.pays, **numbers}
        turn.gate = self.decided[key]
        if not turn.gate["merges"]:
            turn.due, turn.plan = False, None


@torch.no_grad()
def predict(place: Place, x: Tensor, turn: Turn, refresh: int) -> Prediction:
    """What merging saves and costs here; makes the plan that is due.

    Args:
        place: where.
        x: (B, N, C) tokens.
        turn: whose plan is due.
        refresh: how many steps share it.
    """
    planning = seconds_of_plan(f"{turn.strategy!r}, code {_code(turn.strategy)}", x, lambda: make_plan(x, turn))
    plan = turn.plan = make_plan(x, turn)
    turn.due = False
    if plan is None or plan.num_groups == plan.num_tokens:  # the strategy has its reason, which the report tells
        return Prediction(0.0, 0.0)
    rates = speed(x.device, x.dtype)
    saved = sum(_saved(place, role, plan, x, rates.linear, rates.attention) for role in place.roles)
    moved = len(place.roles) * (rates.call + rates.move * x.numel() * x.element_size())
    return Prediction(1000 * saved, 1000 * (planning / refresh + moved))


def _code(strategy: MergeStrategy) -> str:
    """What tells the code of a strategy and of this library from what it was, or will be."""
    return hashlib.sha256("\0".join([*sources(strategy), library()]).encode()).hexdigest()[:12]


def _saved(place: Place, role: str, plan: MergePlan, x: Tensor, linear: float, attention: float) -> float:
    """Seconds that one layer takes less: its linear maps run over fewer tokens, its attention over fewer pairs."""
    site = place.site
    module = site.roles["self_attention" if role == "key_value" else role]
    batch, n, width = x.shape
    m = plan.num_groups
    pairs = {"self_attention": n * n - m * m, "key_value": n * n - n * m}.get(role, 0)
    of_words = {"self_attention": None, "key_value": True, "cross_attention": False, "feed_forward": None}[role]
    weights = _weights(module, lambda name: of_words is None or (name.split(".")[0] in site.key_value_maps) is of_words)
    return 2 * batch * (n - m) * weights * linear + 4 * batch * pairs * width * attention


def _weights(module: nn.Module, counts: Callable[[str], bool]) -> int:
    """Elements of the weights of a module's linear maps."""
    return sum(part.weight.numel() for name, part in module.named_modules() if isinstance(part, nn.Linear) and counts(name))
