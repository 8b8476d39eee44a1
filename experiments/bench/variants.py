"""The ways to run a model that take turns in a measurement: base, floors, packages of others, strategies."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn

from mergekit_diff import MergeStrategy, make, merging, names
from mergekit_diff.registry import part_class
from mergekit_diff.schedules import Constant

from ..study.rehearsal import rehearse
from .config import Bench
from .peers import TOMESD, floor, has_tomesd, hooked, tomesd

BASE, FLOOR, GATED = "base", "floor", "gated"
Entries = Mapping[str, tuple[MergeStrategy, tuple[str, ...]]]
"""Strategies with the roles that they merge in, by the name of their rows."""


@dataclass(frozen=True)
class Variant:
    """A way to run a model.

    Args:
        name: what the table calls it.
        attach: makes a model run so, while the context lasts; its value tells tokens before and after merging.
        keeps: whether a second call may go on with the first one's plan.
        gates: filled by the first run with what a gate decided; None where there is none.
        floor: the variant that is as fast as any strategy can be in the same roles; None for the base.
    """

    name: str
    attach: Callable[[nn.Module], AbstractContextManager[Callable[[], tuple[int, int]]]]
    keeps: bool = False
    floor: str | None = None
    gates: dict[str, dict[str, Any]] | None = None


def named_strategies(bench: Bench) -> Entries:
    """The strategies of a measurement; a ratio that is constant by default becomes the measurement's.

    Raises:
        ValueError: an unknown strategy or setting, two alike, or one that cannot plan; the message is one line.
    """
    specs = names("strategy") if bench.strategies is None else bench.strategies
    if not isinstance(specs, list) or not specs:
        raise ValueError(f"strategies is a list of names or of mappings with 'name', not {bench.strategies!r}")
    found: dict[str, tuple[MergeStrategy, tuple[str, ...]]] = {}
    for spec in specs:
        strategy = _strategy({"name": spec} if isinstance(spec, str) else spec, bench.ratio)
        roles, name = tuple(bench.roles or strategy.defaults().roles), _label(spec)
        rehearse(strategy, list(roles))
        if name in found:
            raise ValueError(f"strategies: {name!r} stands there twice")
        found[name] = (strategy, roles)
    return found


def variants(bench: Bench, entries: Entries, latents: Sequence[int]) -> list[Variant]:
    """Base, floors, installed packages, strategies.

    Args:
        bench: the measurement.
        entries: the strategies.
        latents: height and width of the model's input.
    """
    own = _own(bench)
    found = [Variant(BASE, lambda _: nullcontext(lambda: (0, 0)))]
    found += [_floor(bench, roles) for roles in dict.fromkeys([own, *(roles for _, roles in entries.values())])]
    if has_tomesd() and "key_value" not in own:
        choose = tomesd(bench.ratio, latents)
        found.append(Variant(TOMESD, lambda model: hooked(model, own, bench.levels, choose), floor=FLOOR))
    for name, entry in entries.items():
        found += [_ours(bench, name, *entry), *[_gated(bench, f"{name} {GATED}", *entry)] * (bench.gate == "auto")]
    return found


def all_roles(bench: Bench, entries: Entries) -> list[str]:
    """Every role that merges in some variant."""
    return sorted({*_own(bench), *(role for _, roles in entries.values() for role in roles)})


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
    """The roles of whatever has no default of its own."""
    return tuple(bench.roles or ("self_attention",))


def _floor_name(bench: Bench, roles: tuple[str, ...]) -> str:
    return FLOOR if roles == _own(bench) else f"{FLOOR} of {' and '.join(roles)}"


def _floor(bench: Bench, roles: tuple[str, ...]) -> Variant:
    name, choose = _floor_name(bench, roles), floor(bench.ratio)
    return Variant(name, lambda model: hooked(model, roles, bench.levels, choose), floor=name)


def _ours(bench: Bench, name: str, strategy: MergeStrategy, roles: tuple[str, ...]) -> Variant:
    @contextmanager
    def attach(model: nn.Module) -> Iterator[Callable[[], tuple[int, int]]]:
        # Two steps of one image: the first makes the plan, the second keeps it, unless a schedule has moved on.
        with merging(model, strategy, roles=roles, refresh=2, levels=bench.levels) as session:
            yield lambda: session.report().tokens

    return Variant(name, attach, keeps=max(bench.refresh) > 1, floor=_floor_name(bench, roles))


def _gated(bench: Bench, name: str, strategy: MergeStrategy, roles: tuple[str, ...]) -> Variant:
    gates: dict[str, dict[str, Any]] = {}

    @contextmanager
    def attach(model: nn.Module) -> Iterator[Callable[[], tuple[int, int]]]:
        steps, gate = (2, gates) if gates else (bench.refresh[0], "auto")  # decided at the first run, for so many steps a plan
        with merging(model, strategy, roles=roles, refresh=steps, levels=bench.levels, gate=gate) as session:
            yield lambda: session.report().tokens
            gates.update(session.gates())

    floor = _floor_name(bench, roles)
    return Variant(name, attach, keeps=bench.refresh[0] > 1, floor=floor, gates=gates)
