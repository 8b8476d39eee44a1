"""Where tokens can be merged in a model: sites, and the functions that find them in each family of models."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..plugins import load_plugins
from ..registry import one_of
from .layout import Cached as Cached
from .layout import Layout as Layout
from .layout import Rows as Rows
from .layout import spatial as spatial
from .site import ROLES as ROLES
from .site import Site

Model = Any
"""A model whose attributes are not declared for type checkers."""
FindSites = Callable[[nn.Module], Iterable[Site]]
TIMES: dict[str, Callable[[float], float]] = {
    "t": lambda t: t,
    "t/1000": lambda t: 1000 * t,
    "1-t/1000": lambda t: 1000 * (1 - t),
    "1000-t": lambda t: 1000 - t,
}
"""What a model is called with, by what it is of t, the timestep from 1000 (noise) to 0 (image); and how t is found again.
With "1000-t" the scheduler counts up too."""
GUIDANCE = ("uncond-cond", "cond-uncond", "calls", "none")
"""How a model gets the halves of guidance: as rows of one batch in either order, in two calls (conditional first), or never."""


@dataclass(frozen=True)
class Family:
    """What is known of models of some classes.

    Args:
        find: yields the sites of a model, in the order in which they run.
        timestep: name of the argument with the timestep.
        time: what the model is called with, a key of ``TIMES``.
        guidance: how it gets the halves of guidance, one of ``GUIDANCE``.
        channels: the axis of the channels in what it returns; None is 1, or of (B, N, C) outputs the last; 0 where it
            returns no prediction, such as a ControlNet.
        preset: the arguments of :func:`mergekit_diff.merging` that "preset" means for these models, with the strategy's name
            as ``name``; None where nothing was found that earns it.

    Raises:
        ValueError: an unknown word.
    """

    find: FindSites
    timestep: str = "timestep"
    time: str = "t"
    guidance: str = "uncond-cond"
    channels: int | None = None
    preset: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        one_of(self.time, tuple(TIMES), "time of a family")
        one_of(self.guidance, GUIDANCE, "guidance of a family")


_FAMILIES: dict[str, Family] = {}


def register_family(
    *class_names: str,
    timestep: str = "timestep",
    time: str = "t",
    guidance: str = "uncond-cond",
    channels: int | None = None,
    preset: Mapping[str, Any] | None = None,
) -> Callable[[FindSites], FindSites]:
    """Decorator: register the function that finds the sites of models of these classes.

    Args:
        *class_names: names of classes, so that none has to be imported; subclasses are found by them too.
        timestep: as in :class:`Family`.
        time: as in :class:`Family`.
        guidance: as in :class:`Family`.
        channels: as in :class:`Family`.
        preset: as in :class:`Family`.

    >>> @register_family("MyTransformer")
    ... def sites(model):
    ...     for i, block in enumerate(model.blocks):
    ...         yield Site(f"blocks.{i}", block, roles={"self_attention": block.attn})
    """

    def known(find: FindSites) -> FindSites:
        _FAMILIES.update(dict.fromkeys(class_names, Family(find, timestep, time, guidance, channels, preset)))
        return find

    return known


def families() -> dict[str, Family]:
    """Every registered family by the name of a class, plug-ins' own too."""
    load_plugins()
    return dict(_FAMILIES)


def family_of(model: nn.Module) -> Family:
    """What is known of a model's class.

    Raises:
        ValueError: no family is registered for its class or the classes above it.
    """
    family = _known(model)
    if family is None:
        known = ", ".join(sorted(_FAMILIES))
        name = type(model).__name__
        raise ValueError(f"expected a model of a registered family, got {name}; possible: {known}; or use register_family")
    return family


def is_known(model: nn.Module) -> bool:
    """Whether a family is registered for a model's class or the classes above it."""
    return _known(model) is not None


def _known(model: nn.Module) -> Family | None:
    load_plugins()
    return next((_FAMILIES[c.__name__] for c in type(model).__mro__ if c.__name__ in _FAMILIES), None)


def find_sites(model: nn.Module) -> list[Site]:
    """The sites of a model, in the order in which they run.

    Raises:
        ValueError: no family is registered for its class or the classes above it, or the family found nothing.
    """
    sites = list(family_of(model).find(model))
    if not sites:
        raise ValueError(f"this {type(model).__name__} has no block with self-attention over a grid")
    return sites


def listed(model: Model, *lists: str) -> Iterator[tuple[str, Model]]:
    """Name and block, for the blocks of some lists of a model."""
    for name in lists:
        for i, block in enumerate(getattr(model, name)):
            yield f"{name}.{i}", block


def parts(block: Model, **names: Iterable[str]) -> dict[str, nn.Module | tuple[nn.Module, ...]]:
    """The roles of a block, from the names that their submodules may have, and the whole block as a role of its own."""
    found = {role: tuple(p for name in some if (p := getattr(block, name, None)) is not None) for role, some in names.items()}
    return {role: part[0] if len(part) == 1 else part for role, part in found.items() if part} | {"block": block}
