"""The arguments of a module's ``forward`` by name: read, replaced and checked wherever they were passed."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .sites import Layout, Site

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Signature:
    """The names of the arguments of a module's ``forward``.

    Keyword arguments that it does not name are taken as they are, since many attentions pass them to a processor.

    >>> from torch import nn
    >>> signature = Signature(nn.MultiheadAttention(8, 2))
    >>> signature.first, signature.place((1, 2), {"value": 3}, {"key": 20, "value": 30})
    ('query', ((1, 20), {'value': 30}))
    """

    def __init__(self, module: nn.Module) -> None:
        parameters = _parameters(module, "forward")
        if all(p.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD) for p in parameters):
            parameters = _of_method(type(module).forward)  # a wrapper that hides them
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        self._positions = tuple(p.name for p in parameters if p.kind in positional)
        self.names = tuple(p.name for p in parameters if p.kind in (*positional, inspect.Parameter.KEYWORD_ONLY))

    @property
    def first(self) -> str:
        """The name of the first argument."""
        return self.names[0]

    def read(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that were passed, by name, in the order of the signature."""
        passed = dict(zip(self._positions, args, strict=False)) | dict(kwargs)
        return {name: passed[name] for name in (*self.names, *kwargs) if name in passed}

    def place(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], changes: Mapping[str, Any]) -> Arguments:
        """The arguments with some replaced or added, each where it was passed."""
        new_args, new_kwargs = list(args), dict(kwargs)
        for name, value in changes.items():
            place = self._positions.index(name) if name in self._positions else len(args)
            if place < len(args):
                new_args[place] = value
            else:
                new_kwargs[name] = value
        return tuple(new_args), new_kwargs


def check_site(site: Site, roles: Iterable[str]) -> None:
    """Compare a site's metadata with the signatures of its modules, so that another release of a model is noticed at once.

    Args:
        site: where.
        roles: those that will be used.

    Raises:
        ValueError: an argument is in none of them; names the argument and the class.
    """
    block, own = f"the block ({type(site.block).__name__})", [type(part).__name__ for part in site.parts("self_attention")]
    attends = f"the self-attention ({', '.join(dict.fromkeys(own))})"
    attention = [name for part in site.parts("self_attention") for name in Signature(part).names]
    parts = [name for role in site.roles for part in site.parts(role) for name in _names(part)]
    for rows in site.rows:
        _expect(rows.argument, {*Signature(site.block).names, *parts}, f"{block} or its parts", site)
    if site.frame is not None:
        for name in site.reads:
            _expect(name, set(Signature(site.frame).names), type(site.frame).__name__, site)
    if "key_value" in roles and site.offers("key_value") and site.key_value is not None:
        _expect(site.key_value, set(attention), attends, site)
    if site.cache is not None:
        for names, where in ((Signature(site.block).names, block), (attention, attends)):
            if set(names).isdisjoint(site.cache.arguments):
                _expect(site.cache.arguments[0], set(names), where, site)


def _names(part: nn.Module) -> Iterable[str]:
    """The arguments that a part takes, or hands to its processor."""
    processor = getattr(part, "processor", None)
    return (*Signature(part).names, *(p.name for p in (() if processor is None else _parameters(processor, "__call__"))))


def _parameters(owner: Any, name: str) -> tuple[inspect.Parameter, ...]:  # noqa: ANN401
    """What a method takes besides its owner, which may have one of its own in the place of its class's."""
    method, own = getattr(owner, name), getattr(type(owner), name, None)
    if getattr(method, "__func__", None) is own is not None:
        return _of_method(own)
    return tuple(inspect.signature(method).parameters.values())


@cache
def _of_method(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    """What a method of a class takes besides ``self``; read once, since a model has many blocks of few classes."""
    return tuple(inspect.signature(function).parameters.values())[1:]


def _expect(name: str, names: set[str], where: str, site: Site) -> None:
    if name not in names:
        raise ValueError(f"{site.name}: expected an argument '{name}' in forward of {where}, got {', '.join(sorted(names))}")


def check_arguments(site: Site, role: str, arguments: Mapping[str, Any], layout: Layout) -> None:
    """Refuse what has a value for every token and is not declared, since it no longer fits merged tokens.

    Args:
        site: where.
        role: which part of the block.
        arguments: those of its call by name, the tokens (B, L, C) first.
        layout: of the grid's tokens among them.

    Raises:
        ValueError: with the argument's name.
    """
    first, *others = arguments
    tokens: Tensor = arguments[first]
    batch, numbers = len(tokens), {layout.number, tokens.shape[1]}
    declared = {*site.passes, *(rows.argument for rows in site.rows)}
    for name in others:
        value = arguments[name]
        if value is None or name in declared:
            continue
        masks_keys = name == site.key_bias and role != "cross_attention"
        leaves = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
        if name in site.refuses or (masks_keys and leaves) or any(_per_token(leaf, batch, numbers) for leaf in leaves):
            raise ValueError(
                f"{site.name} {role}: '{name}' has a value for every token, which this site cannot merge; leave it out"
            )


def _per_token(value: Tensor, batch: int, numbers: set[int]) -> bool:
    """Whether some axis of a tensor is as long as the tokens; never the last one, which holds channels or text."""
    axes = value.shape[:-1]
    return not numbers.isdisjoint(axes[1:] if axes[:1] == (batch,) else axes)
