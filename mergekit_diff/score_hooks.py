"""The hooks of one attention whose keys merge, or have log sizes, inside ``scaled_dot_product_attention``."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .arguments import Signature
from .beside import check_processor, reusing_hooks
from .rows import placed, within
from .scores import PlanOfRow, Scores, with_merged_keys, with_sizes
from .site_state import SiteState


class ScoreHooks:
    """Changes the scores of one attention.

    Args:
        state: of its site.
        attention: the submodule.
        of_others: whether other tokens attend in it to the site's.
        bypassed: called if it ran without ``scaled_dot_product_attention``, where it should have been changed.
    """

    def __init__(self, state: SiteState, attention: nn.Module, of_others: bool, bypassed: Callable[[], None]) -> None:
        self.state, self.attention, self.bypassed = state, attention, bypassed
        self.scores = Scores(self._rescored, state.site.more_keys, of_others)

    def attach(self) -> list[RemovableHandle]:
        """Register the hooks, if the attention's arguments cannot say the same; the handles remove them."""
        if not self.state.at_scores(Signature(self.attention)):
            return []
        handles = []
        if "key_value" in self.state.roles and self.state.rotary == "before":
            for name in sorted(self.state.site.key_value_maps):
                handles += self._attach_projection(name)
        handles.append(self.attention.register_forward_pre_hook(self._enter))
        handles.append(self.attention.register_forward_hook(self._leave, always_call=True))
        return handles

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        state = self.state
        if state.key_value is not None or (state.is_sized and state.merged_keys() is not None):
            check_processor(state.site, module, given=False)
            self.scores.enter()

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
        if not self.scores.leave() and output is not None and not reusing_hooks(module):
            self.bypassed()

    def _rescored(self, arguments: dict[str, Any], call: int) -> dict[str, Any]:
        state, plan = self.state, self.state.merged_keys()
        if plan is None:
            return arguments
        if len(arguments["key"]) < state.batch:  # attention is computed row by row
            plan = PlanOfRow(plan, state.batch, call)
        if state.key_value is not None:
            arguments = with_merged_keys(arguments, plan, state.place, state.rotary)
        return with_sizes(arguments, plan, state.place) if state.is_sized else arguments

    def _attach_projection(self, name: str) -> list[RemovableHandle]:
        """Run a map of the attention's tokens to keys or values on merged ones; the rotation needs them at all positions."""
        state, projection = self.state, getattr(self.attention, name, None)
        if projection is None or getattr(self.attention, "fused_projections", False):
            separate = ", ".join(sorted(state.site.key_value_maps))
            raise ValueError(f"{state.site.name}: expected separate {separate}, got fused ones")

        def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            plan = state.key_value
            return None if plan is None else (within(args[0], state.place, plan.num_tokens, plan.merge), *args[1:])

        def after(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            plan = state.key_value
            return output if plan is None else within(output, state.place, plan.num_groups, lambda y: placed(y, plan))

        return [projection.register_forward_pre_hook(before), projection.register_forward_hook(after)]
