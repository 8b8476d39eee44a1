"""The hooks of one site, torch's own: plan before the block, merge before a submodule, unmerge after it."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .plan import Plan
from .sites import Site

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def first_name(module: nn.Module) -> str:
    """The name of the first argument of a module's ``forward``."""
    return next(iter(inspect.signature(module.forward).parameters))


def argument(args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str) -> Any:  # noqa: ANN401
    """An argument, whether it was passed by position or by keyword; None if it was not passed."""
    return args[position] if len(args) > position else kwargs.get(name)


class SiteHooks:
    """Merges what runs inside one site.

    Args:
        site: where.
        roles: which of its roles.
        choose: called with the block's (B, N, C) input; returns the plan that all roles but "key_value" share, and that of
            "key_value"; None where nothing is merged.
        proportional: whether the logarithms of the keys' group sizes are added to the scores of self-attention.
    """

    def __init__(
        self,
        site: Site,
        roles: tuple[str, ...],
        choose: Callable[[Tensor], tuple[Plan | None, Plan | None]],
        proportional: bool = False,
    ) -> None:
        self.site, self.roles, self.choose, self.proportional = site, roles, choose, proportional
        self.plan: Plan | None = None
        self.key_value: Plan | None = None

    def attach(self) -> list[RemovableHandle]:
        """Register the hooks; the handles remove them."""
        names = {role: first_name(module) for role, module in self.site.roles.items()}
        name = first_name(self.site.block)

        def before_block(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.plan, self.key_value = self.choose(argument(args, kwargs, 0, name))

        handles = [self.site.block.register_forward_pre_hook(before_block, with_kwargs=True)]
        for role, module in self.site.roles.items():
            if role in self.roles or (role == "self_attention" and "key_value" in self.roles):
                handles += self._attach_role(role, module, names[role])
        return handles

    def _attach_role(self, role: str, module: nn.Module, name: str) -> list[RemovableHandle]:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
            plan = self.plan if role in self.roles else None
            key_value = self.key_value if role == "self_attention" else None
            if plan is None and key_value is None:
                return None
            x: Tensor = argument(args, kwargs, 0, name)
            self._check(role, name, x, args, kwargs)
            kwargs = dict(kwargs)
            if key_value is not None:
                kwargs[self.site.key_value] = key_value.merge(x)
            keys = key_value or plan
            if role == "self_attention" and keys is not None and self.proportional:
                kwargs[self.site.key_bias] = keys.sizes.log().expand(len(x), -1)[:, None].to(x.dtype)
            merged = x if plan is None else plan.merge(x)
            if args:
                return (merged, *args[1:]), kwargs
            return args, {**kwargs, name: merged}

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:  # noqa: ANN401
            if self.plan is None or role not in self.roles:
                return output
            if isinstance(output, tuple):
                return (self.plan.unmerge(output[0]), *output[1:])
            return self.plan.unmerge(output)

        return [module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)]

    def _check(self, role: str, name: str, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse arguments with a value per token, which no longer fit merged tokens."""
        plan = self.plan or self.key_value
        assert plan is not None
        where = f"{self.site.name} {role}"
        others = kwargs.get(self.site.key_value) if role == "cross_attention" else None
        words = others.shape[1] if isinstance(others, Tensor) else -1
        if x.shape[1] != plan.num_tokens:
            raise ValueError(f"{where}: expected {plan.num_tokens} tokens, got {x.shape[1]}; chunked calls cannot be merged")
        for key, value in [*((f"argument {i}", a) for i, a in enumerate(args[1:], 1)), *kwargs.items()]:
            if value is None or key == name or key in self.site.passes:
                continue
            per_token = isinstance(value, Tensor) and plan.num_tokens in value.shape and value.shape[-1] != words
            if per_token or key in self.site.refuses:
                raise ValueError(f"{where}: '{key}' has a value for every token, which this site cannot merge; leave it out")
        if self.key_value is not None and role == "self_attention" and kwargs.get(self.site.key_value) is not None:
            raise ValueError(f"{where}: expected no '{self.site.key_value}', since key_value merges the block's own tokens")
