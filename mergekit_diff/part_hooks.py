"""The hooks of one submodule of a block: merge what it is called with, unmerge what it returns."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .arguments import Arguments, Signature, check_arguments
from .beside import check_processor
from .plan import Plan
from .rows import within
from .site_state import SiteState


class PartHooks:
    """Merges in one submodule.

    Args:
        state: of its site.
        role: that it has there.
        number: which of the role's submodules it is.
        part: the submodule.
    """

    def __init__(self, state: SiteState, role: str, number: int, part: nn.Module) -> None:
        self.state, self.role, self.number, self.part = state, role, number, part
        self.signature = Signature(part)

    def attach(self) -> list[RemovableHandle]:
        """Register the hooks; the handles remove them."""
        before = self.part.register_forward_pre_hook(self._before, with_kwargs=True)
        return [before, self.part.register_forward_hook(self._after)]

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        state, role = self.state, self.role
        plan = None if role in state.done else state.serving(role)
        keys = state.merged_keys() if role == "self_attention" and not state.at_scores(self.signature) else None
        if plan is None and keys is None:
            return None
        arguments = self.signature.read(args, kwargs)
        x: Tensor = arguments[self.signature.first]
        check_arguments(state.site, role, arguments, state.place)
        changes: dict[str, Any] = {}
        if plan is not None:
            changes = state.followed(arguments, x, within(x, state.place, plan.num_tokens, plan.merge))
        if keys is not None:
            changes |= self._keys(keys, arguments, x)
        return self.signature.place(args, kwargs, changes)

    def _keys(self, keys: Plan, arguments: dict[str, Any], x: Tensor) -> dict[str, Any]:
        """The arguments by which self-attention gets merged keys and their log sizes."""
        state, site, changes = self.state, self.state.site, {}
        given = keys is state.key_value and site.key_value is not None
        if given or state.is_sized:
            check_processor(site, self.part, given=given)
        if given:
            assert site.key_value is not None
            if arguments.get(site.key_value) is not None:
                reason = f"expected no '{site.key_value}', since key_value merges the block's own tokens"
                raise ValueError(f"{site.name} {self.role}: {reason}")
            changes[site.key_value] = within(x, state.place, keys.num_tokens, keys.merge)
        if state.is_sized and site.key_bias is not None:
            changes[site.key_bias] = keys.sizes.log().expand(len(x), -1)[:, None].to(x.dtype)
        return changes

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:  # noqa: ANN401
        state, role = self.state, self.role
        plan, place = state.serving(role), state.place
        if role in state.done or (plan is None and (state.outputs is None or role not in state.roles)):
            return output
        if role in state.site.first_run:
            state.done += (role,)

        def back(y: Tensor, i: int) -> Tensor:
            whole = y if plan is None else within(y, place, plan.num_groups, plan.unmerge)
            return state.recorded(whole, (state.site.name, role, self.number, i), plan)

        return in_output(output, state.site.outputs, back)


def in_output(output: Any, places: tuple[int, ...], change: Callable[[Tensor, int], Tensor]) -> Any:  # noqa: ANN401
    """Change the tokens in what a module returns, a tensor or several, by their place in it."""
    if not isinstance(output, tuple):
        return change(output, 0)
    return tuple(change(each, i) if i in places and each is not None else each for i, each in enumerate(output))
