"""The ways to run a model that take turns in a measurement: base, floors, packages of others, strategies."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn

from mergekit_diff import MergeStrategy, make, merging, names
from mergekit_diff.components import part_class
from mergekit_diff.schedules import Constant

from ..rehearsal import rehearse
from .config import Bench
from .peers import TOMESD, floor, has_tomesd, hooked, tomesd

BASE, FLOOR = "base", "floor"
Tokens = Callable[[], tuple[int, int]]


@dataclass(frozen=True)
class Variant:
    """A way to run a model.

    Args:
        name: what the table calls it.
        attach: makes a model run so, while the context lasts; its value tells tokens before and after merging.
        keeps: whether a second call may go on with the first one's plan.
        floor: the variant that is as fast as any strategy can be with its roles; None for the base.
    """

    name: str
    attach: Callable[[nn.Module], AbstractContextManager[Tokens]]
    keeps: bool = False
    floor: str | None = None


def named_strategies(bench: Bench) -> dict[str, MergeStrategy]:
    """The strategies of a measurement by the name of their rows; a constant ratio becomes the measurement's.

    Raises:
        ValueError: an unknown strategy or setting, two alike, or one that cannot plan; the message is one line.
    """
    found: dict[str, MergeStrategy] = {}
    specs = names("strategy") if bench.strategies is None else bench.strategies
    if not isinstance(specs, list) or not specs:
        raise ValueError(f"strategies is a list of names or of mappings with 'name', not {bench.strategies!r}")
    for spec in specs:
        strategy = _strategy(spec, bench.ratio)
        rehearse(strategy, list(bench.roles or strategy.roles))
        name = _label(spec)
        if name in found:
            raise ValueError(f"strategies: {name!r} stands there twice")
        found[name] = strategy
    return found


def variants(bench: Bench, strategies: dict[str, MergeStrategy], latents: tuple[int, int]) -> list[Variant]:
    """Base, floors, installed packages, strategies.

    Args:
        bench: the measurement.
        strategies: by name.
        latents: height and width of the model's input.
    """
    ours = [_ours(bench, name, strategy) for name, strategy in strategies.items()]
    found = [Variant(BASE, lambda _: nullcontext(lambda: (0, 0)))]
    found += [_floor(bench, roles) for roles in dict.fromkeys([_own(bench), *map(_own_roles(bench), strategies.values())])]
    if has_tomesd() and "key_value" not in _own(bench):
        choose = tomesd(bench.ratio, latents)
        found.append(Variant(TOMESD, lambda model: hooked(model, _own(bench), bench.levels, choose), floor=FLOOR))
    return found + ours


def all_roles(bench: Bench, strategies: dict[str, MergeStrategy]) -> list[str]:
    """Every role that merges in some variant."""
    return sorted({*_own(bench), *(role for strategy in strategies.values() for role in bench.roles or strategy.roles)})


def _strategy(spec: Any, ratio: float) -> MergeStrategy:  # noqa: ANN401
    settings = {"name": spec} if isinstance(spec, str) else spec
    strategy = make("strategy", settings)
    if "ratio" not in settings and isinstance(getattr(strategy, "ratio", None), Constant):
        strategy = dataclasses.replace(strategy, ratio=Constant(ratio))
    return strategy


def _label(spec: Any) -> str:  # noqa: ANN401
    if isinstance(spec, str):
        return spec
    known = [field.name for field in dataclasses.fields(part_class("strategy", spec["name"]))]
    return " ".join([spec["name"], *(f"{key}={spec[key]}" for key in known if key in spec)])


def _own(bench: Bench) -> tuple[str, ...]:
    """The roles of what has no default of its own."""
    return tuple(bench.roles or ("self_attention",))


def _own_roles(bench: Bench) -> Callable[[MergeStrategy], tuple[str, ...]]:
    return lambda strategy: tuple(bench.roles or strategy.roles)


def _floor_name(bench: Bench, roles: Sequence[str]) -> str:
    return FLOOR if tuple(roles) == _own(bench) else f"{FLOOR} of {' and '.join(roles)}"


def _floor(bench: Bench, roles: tuple[str, ...]) -> Variant:
    name, choose = _floor_name(bench, roles), floor(bench.ratio)
    return Variant(name, lambda model: hooked(model, roles, bench.levels, choose), floor=name)


def _ours(bench: Bench, name: str, strategy: MergeStrategy) -> Variant:
    roles = _own_roles(bench)(strategy)

    @contextmanager
    def attach(model: nn.Module) -> Iterator[Tokens]:
        # Two steps of one image: the first makes the plan, the second keeps it, unless a schedule has moved on.
        with merging(model, strategy, roles=roles, refresh=2, levels=bench.levels) as session:
            yield lambda: session.report().tokens

    return Variant(name, attach, keeps=max(bench.refresh) > 1, floor=_floor_name(bench, roles))
