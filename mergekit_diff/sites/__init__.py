"""Where tokens can be merged in a model: sites, and the functions that find them in each family of models."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from ..plugins import load_plugins
from ..registry import one_of

ROLES = ("self_attention", "key_value", "cross_attention", "feed_forward")


def spatial(x: Tensor) -> tuple[int, ...]:
    """The grid of a channels-first tensor: ``(h, w)`` of (B, C, h, w), ``(f, h, w)`` of (B, C, f, h, w).

    >>> import torch
    >>> spatial(torch.zeros(2, 320, 64, 96))
    (64, 96)
    """
    return tuple(x.shape[2:])


@dataclass(frozen=True)
class Site:
    """A transformer block whose tokens can be merged.

    Args:
        name: unique in the model, as in ``named_modules``.
        block: the block; plans are made from its first argument, (B, N, C).
        roles: for "self_attention", "cross_attention" and "feed_forward" the submodule whose (B, N, C) input is merged and
            whose (B, N, C) output is unmerged. "key_value" hooks the one of "self_attention".
        frame: the module around the block from whose first argument the grid is read; None for a line of N tokens.
        grid: reads the grid from the frame's first argument.
        stage: "down", "mid" or "up" of a U-Net, else None.
        level: 0 for the finest grid that has attention in the model, 1 for the next.
        key_value_maps: the submodules of an attention that make its keys and values.
        key_value: the argument by which the self-attention takes tokens for its keys and values.
        key_bias: the argument by which the self-attention takes (B, 1, keys) numbers that are added to its scores.
        passes: arguments that are passed on unchanged, since they belong to other tokens than the site's.
        refuses: arguments that would be wrong on merged tokens, whatever their shape.
        normalize: makes the input of the block's first attention from the block's, (B, N, C) to (B, N, C), where a norm of the
            tokens alone is between them; None where something else is, such as a norm that also reads the timestep.

    Raises:
        ValueError: an unknown role.

    >>> from torch import nn
    >>> block = nn.Sequential(nn.Linear(8, 8))
    >>> Site("blocks.0", block, roles={"feed_forward": block[0]}).level
    0
    """

    name: str
    block: nn.Module
    roles: Mapping[str, nn.Module]
    frame: nn.Module | None = None
    grid: Callable[[Tensor], tuple[int, ...]] = spatial
    stage: str | None = None
    level: int = 0
    key_value_maps: frozenset[str] = field(default=frozenset({"to_k", "to_v"}))
    key_value: str = "encoder_hidden_states"
    key_bias: str = "attention_mask"
    passes: frozenset[str] = field(default=frozenset({"encoder_hidden_states"}))
    refuses: frozenset[str] = field(default=frozenset())
    normalize: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        for role in self.roles:
            one_of(role, ROLES, f"role of site {self.name}")


FindSites = Callable[[nn.Module], Iterable[Site]]
_FAMILIES: dict[str, FindSites] = {}


def register_family(*class_names: str) -> Callable[[FindSites], FindSites]:
    """Decorator: register the function that finds the sites of models of these classes.

    Args:
        *class_names: names of classes, so that none has to be imported; subclasses are found by them too.

    >>> @register_family("MyTransformer")
    ... def sites(model):
    ...     for i, block in enumerate(model.blocks):
    ...         yield Site(f"blocks.{i}", block, roles={"self_attention": block.attn})
    """

    def known(find: FindSites) -> FindSites:
        _FAMILIES.update(dict.fromkeys(class_names, find))
        return find

    return known


def find_sites(model: nn.Module) -> list[Site]:
    """The sites of a model, in the order in which they run.

    Raises:
        ValueError: no family is registered for its class or the classes above it, or the family found nothing.
    """
    load_plugins()
    find = next((_FAMILIES[c.__name__] for c in type(model).__mro__ if c.__name__ in _FAMILIES), None)
    if find is None:
        known = ", ".join(sorted(_FAMILIES))
        name = type(model).__name__
        raise ValueError(f"expected a model of a registered family, got {name}; possible: {known}; or use register_family")
    sites = list(find(model))
    if not sites:
        raise ValueError(f"this {type(model).__name__} has no block with self-attention over a grid")
    return sites
