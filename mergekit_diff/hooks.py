"""The hooks of one site, torch's own: plan before the block, merge before it or its submodules, unmerge after them."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .arguments import Arguments, Signature, check_arguments
from .part_hooks import PartHooks, in_output
from .plan import Plan
from .recording import Outputs
from .rows import within
from .score_hooks import ScoreHooks
from .site_state import SiteState
from .sites import Layout, Site


def line(x: Tensor) -> Layout:
    """The layout of a (B, N, C) sequence that holds the tokens alone, in a line."""
    return Layout((x.shape[1],))


class SiteHooks:
    """Merges what runs inside one site.

    Args:
        site: where.
        roles: which of its roles.
        choose: called with the block's (B, L, C) input; returns the plan that all roles but "key_value" share, and that of
            "key_value"; None where nothing is merged.
        layout: called with the same; where the grid's tokens are in it.
        proportional: whether the logarithms of the keys' group sizes are added to the scores of self-attention; None is where
            tokens that do not merge attend beside those that may, which would otherwise gain weight.
        rotary: how keys merge that are rotated by their positions, as in :func:`mergekit_diff.scores.with_merged_keys`.
        bypassed: called if self-attention ran without ``scaled_dot_product_attention``, where it should have been changed.
        outputs: where the outputs of the layers are recorded; None if they are not.
        previous: the hooks of the block before, if this one runs on the tokens that that one merged.
    """

    def __init__(
        self,
        site: Site,
        roles: tuple[str, ...],
        choose: Callable[[Tensor], tuple[Plan | None, Plan | None]],
        layout: Callable[[Tensor], Layout] = line,
        *,
        proportional: bool | None = False,
        rotary: str = "values",
        bypassed: Callable[[], None] = lambda: None,
        outputs: Outputs | None = None,
        previous: "SiteHooks | None" = None,
    ) -> None:
        self.site, self.choose, self.layout, self.bypassed = site, choose, layout, bypassed
        offered = tuple(role for role in roles if site.offers(role))
        self.state = SiteState(site, offered, proportional, rotary if site.rotary else "before", outputs)
        self.previous, self.is_followed = previous, False
        if previous is not None:
            previous.is_followed = True
        self.whole: tuple[Tensor, Tensor] | None = None
        """The tokens (B, L, C) before the block, or the first of its span, and merged; None where the block does not merge."""
        self.returned: Tensor | None = None
        """What the block returned, still merged, if the next one runs on it."""

    def attach(self) -> list[RemovableHandle]:
        """Register the hooks; the handles remove them."""
        state, site = self.state, self.site
        before = partial(self._before, Signature(site.block))
        handles = [site.block.register_forward_pre_hook(before, with_kwargs=True)]
        if "block" in state.roles:
            handles.append(site.block.register_forward_hook(self._after))
        for role in site.roles:
            for number, part in enumerate(site.parts(role) if role != "block" else ()):
                if role in state.roles or (role == "self_attention" and state.changes_attention):
                    handles += PartHooks(state, role, number, part).attach()
        for attention in site.parts("self_attention") if state.changes_attention else ():
            handles += ScoreHooks(state, attention, False, self.bypassed).attach()
        for attention in site.read_by if state.changes_attention and "block" in state.roles else ():
            handles += ScoreHooks(state, attention, True, self.bypassed).attach()
        return handles

    def _before(self, signature: Signature, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        arguments = signature.read(args, kwargs)
        x = self.site.tokens(arguments[self.site.argument or signature.first])
        merged = self._begin(x) if self.previous is None else self._go_on(x, self.previous)
        if merged is None:
            return None
        check_arguments(self.site, "block", arguments, self.state.place)
        return signature.place(args, kwargs, self.state.followed(arguments, x, merged))

    def _begin(self, x: Tensor) -> Tensor | None:
        """Choose the plan of (B, L, C) tokens; returns the merged ones, if the whole block runs on them."""
        self.whole = None
        self.state.begin(*self.choose(x), self.layout(x), x)
        plan = self.state.serving("block")
        if plan is None:
            return None
        merged = within(x, self.state.place, plan.num_tokens, plan.merge)
        self.whole = x, merged
        return merged

    def _go_on(self, x: Tensor, previous: "SiteHooks") -> Tensor | None:
        """Run on the tokens that the block before returned without unmerging them."""
        self.state.follow(previous.state)
        self.whole, previous.whole, returned, previous.returned = previous.whole, None, previous.returned, None
        if self.whole is None:
            return None
        if x is not returned:
            names = f"{previous.site.name} and {self.site.name}"
            raise ValueError(f"{names} cannot share merged tokens: the model changes them in between; leave out span")
        return x

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:  # noqa: ANN401
        state, place, number = self.state, self.state.place, self.site.output
        key = self.site.name, "block", 0, number
        if self.whole is None or state.plan is None:
            return output if state.outputs is None else in_output(output, (number,), lambda y, _: state.recorded(y, key, None))
        if self.is_followed:
            self.returned = output[number] if isinstance(output, tuple) else output
            return output
        (x, merged), plan = self.whole, state.plan
        self.whole = None

        def back(y: Tensor) -> Tensor:
            begin = place.begin(x.shape[1], plan.num_tokens)
            before, after = x.narrow(1, begin, plan.num_tokens), merged.narrow(1, begin, plan.num_groups)
            return before + plan.unmerge(y - after)

        return in_output(output, (number,), lambda y, _: state.recorded(within(y, place, plan.num_groups, back), key, plan))
