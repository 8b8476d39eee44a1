"""The ways to run a model that a measurement compares: base, floors, other packages, strategies."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn

from mergekit_diff import MergeStrategy, make, merging
from mergekit_diff.registry import part_class
from mergekit_diff.schedules import Constant

from ..study.rehearsal import planning_for, rehearse
from .config import Bench
from .peers import TOMESD, floor, has_tomesd, hooked, tomesd

TOY_GRIDS = {1: (64,), 2: (8, 8), 3: (4, 4, 4)}
BASE, FLOOR, GATED = "base", "floor", "gated"
Entries = Mapping[str, tuple[MergeStrategy, tuple[str, ...]]]
"""Strategies and the roles that they merge in, by the name of their rows."""


@dataclass(frozen=True)
class Variant:
    """A way to run a model.

    Args:
        name: what the table calls it.
        attach: a context in which a model runs this way; it yields a function that returns tokens before and after merging.
        keeps: whether a second call may reuse the first one's plan.
        floor: the variant that is as fast as any strategy can be in the same roles; None for the base.
        gates: filled by the first run with the decisions of a gate; None without one.
    """

    name: str
    attach: Callable[[nn.Module], AbstractContextManager[Callable[[], tuple[int, int]]]]
    keeps: bool = False
    floor: str | None = None
    gates: Mapping[str, Mapping[str, Any]] | None = None


def named_strategies(bench: Bench) -> Entries:
    """The strategies of a measurement; a strategy whose default ratio is a constant takes the ratio of the measurement.

    Raises:
        ValueError: an unknown strategy or setting, one listed twice, or one that cannot plan; the message is one line.
    """
    axes = bench.grid_axes()
    specs = planning_for(axes) if bench.strategies is None else bench.strategies
    if not isinstance(specs, list) or not specs:
        raise ValueError(f"strategies: expected a list of names or of mappings with 'name', got {bench.strategies!r}")
    entries: dict[str, tuple[MergeStrategy, tuple[str, ...]]] = {}
    for spec in specs:
        strategy = _strategy({"name": spec} if isinstance(spec, str) else spec, bench.ratio)
        for roles in bench.role_sets() or [tuple(strategy.defaults().roles)]:
            rehearse(strategy, list(roles), TOY_GRIDS[axes])
            name = _label(spec) if len(bench.role_sets()) < 2 else f"{_label(spec)} in {' and '.join(roles)}"
            if name in entries:
                raise ValueError(f"strategies: {name!r} is listed twice")
            entries[name] = (strategy, roles)
    return entries


def variants(bench: Bench, entries: Entries, latents: Sequence[int] | None) -> list[Variant]:
    """Base, floors, installed packages and strategies.

    Args:
        bench: the measurement.
        entries: the strategies.
        latents: height and width of a U-Net's input; None for other models, which no package knows.
    """
    own, keep = _own(bench), max(bench.refresh) > 1
    every = [Variant(BASE, lambda _: nullcontext(lambda: (0, 0)))]
    every += [_floor(bench, roles) for roles in dict.fromkeys([own, *(roles for _, roles in entries.values())])]
    if has_tomesd() and "key_value" not in own and latents is not None:
        choose = tomesd(bench.ratio, latents)
        every.append(Variant(TOMESD, lambda model: hooked(model, own, bench.levels, choose, keep), _keeps(bench), floor=FLOOR))
    for name, entry in entries.items():
        every += [_ours(bench, name if span == 1 else f"{name} span={span}", *entry, span) for span in bench.spans]
        every += [_gated(bench, f"{name} {GATED}", *entry)] * (bench.gate == "auto")
    return every


def all_roles(bench: Bench, entries: Entries) -> list[str]:
    """Every role that merges in any variant."""
    return sorted({*_own(bench), *(role for _, roles in entries.values() for role in roles)})


def _keeps(bench: Bench) -> bool:
    """Whether calls that make a plan and calls that reuse it are timed apart. A whole call does both."""
    return max(bench.refresh) > 1 and bench.at != "call"


def _refresh(bench: Bench) -> int:
    """Two steps of one image are timed: the first makes the plan, the second reuses it, unless a schedule has moved on."""
    return bench.refresh[0] if bench.at == "call" else 2


def _strategy(spec: Any, ratio: float) -> MergeStrategy:  # noqa: ANN401
    strategy = make("strategy", spec)
    if "ratio" not in spec and isinstance(getattr(strategy, "ratio", None), Constant):
        strategy = dataclasses.replace(strategy, ratio=ratio)
    return strategy


def _label(spec: Any) -> str:  # noqa: ANN401
    if isinstance(spec, str):
        return spec
    known = [field.name for field in dataclasses.fields(part_class("strategy", spec["name"]))]
    return " ".join([spec["name"], *(f"{key}={spec[key]}" for key in known if key in spec)])


def _own(bench: Bench) -> tuple[str, ...]:
    """The roles of variants that have no defaults of their own."""
    return (bench.role_sets() or [("self_attention",)])[0]


def _floor_name(bench: Bench, roles: tuple[str, ...]) -> str:
    return FLOOR if roles == _own(bench) else f"{FLOOR} of {' and '.join(roles)}"


def _floor(bench: Bench, roles: tuple[str, ...]) -> Variant:
    name, choose = _floor_name(bench, roles), floor(bench.ratio)
    return Variant(name, lambda model: hooked(model, roles, bench.levels, choose), floor=name)


def _ours(bench: Bench, name: str, strategy: MergeStrategy, roles: tuple[str, ...], span: int) -> Variant:
    @contextmanager
    def attach(model: nn.Module) -> Iterator[Callable[[], tuple[int, int]]]:
        named = roles if bench.roles else None  # of default roles, those that the model does not offer are left out
        options = {"levels": bench.levels, "span": span, "proportional": bench.proportional}
        with merging(model, strategy, roles=named, refresh=_refresh(bench), **options) as session:
            yield lambda: session.report().tokens

    return Variant(name, attach, keeps=_keeps(bench), floor=_floor_name(bench, roles))


def _gated(bench: Bench, name: str, strategy: MergeStrategy, roles: tuple[str, ...]) -> Variant:
    gates: dict[str, Mapping[str, Any]] = {}

    @contextmanager
    def attach(model: nn.Module) -> Iterator[Callable[[], tuple[int, int]]]:
        steps, gate = (
            (_refresh(bench), gates) if gates else (bench.refresh[0], "auto")
        )  # the first run decides, for this many steps per plan
        named = roles if bench.roles else None
        options = {"levels": bench.levels, "proportional": bench.proportional}
        with merging(model, strategy, roles=named, refresh=steps, gate=gate, **options) as session:
            yield lambda: session.report().tokens
            gates.update(session.gates())

    floor = _floor_name(bench, roles)
    return Variant(name, attach, keeps=_keeps(bench), floor=floor, gates=gates)
