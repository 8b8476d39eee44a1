"""The hooks of one site, torch's own: plan before the block, merge before a submodule, unmerge after it."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .arguments import Arguments, Signature, check_arguments
from .beside import check_processor, reusing_hooks
from .plan import MergePlan, Plan, serves
from .ready import ReadyPlan
from .recording import Outputs
from .rows import inside, placed, representatives, selected, within
from .scores import PlanOfRow, Scores, with_merged_keys, with_sizes
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
        self.site, self.choose, self.layout, self.bypassed, self.outputs = site, choose, layout, bypassed, outputs
        self.roles = tuple(role for role in roles if site.offers(role))
        self.proportional, self.rotary = proportional, rotary if site.rotary else "before"
        self.previous, self.is_followed, self.returned = previous, False, None
        if previous is not None:
            previous.is_followed = True
        self.plan: Plan | None = None
        self.key_value: Plan | None = None
        self._is_sized = False
        self._batch = 1
        self._place = Layout(())
        self._whole: tuple[Tensor, Tensor] | None = None
        self._done: tuple[str, ...] = ()  # roles whose submodule has run on the site's tokens

    def attach(self) -> list[RemovableHandle]:
        """Register the hooks; the handles remove them."""
        before = partial(self._before_block, Signature(self.site.block))
        handles = [self.site.block.register_forward_pre_hook(before, with_kwargs=True)]
        if "block" in self.roles:
            handles.append(self.site.block.register_forward_hook(self._after_block))
        for role in self.site.roles:
            for number, part in enumerate(self.site.parts(role) if role != "block" else ()):
                if role in self.roles or (role == "self_attention" and self._changes_attention):
                    handles += self._attach_part(role, number, part)
        for attention in self.site.parts("self_attention") if self._changes_attention else ():
            handles += self._attach_scores(attention)
        for attention in self.site.read_by if self._changes_attention and "block" in self.roles else ():
            handles += self._attach_scores(attention, of_others=True)
        return handles

    @property
    def _changes_attention(self) -> bool:
        sized = self.site.key_value is None if self.proportional is None else self.proportional
        return "key_value" in self.roles or (sized and not {"self_attention", "block"}.isdisjoint(self.roles))

    def _before_block(
        self, signature: Signature, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Arguments | None:
        arguments = signature.read(args, kwargs)
        x = self.site.tokens(arguments[self.site.argument or signature.first])
        merged = self._begin(x) if self.previous is None else self._go_on(x, self.previous)
        if merged is None:
            return None
        check_arguments(self.site, "block", arguments, self._place)
        return signature.place(args, kwargs, self._followed(arguments, x, merged))

    def _begin(self, x: Tensor) -> Tensor | None:
        """Choose the plan of (B, L, C) tokens; those that the whole block runs on, if it does."""
        self.plan, key_value = self.choose(x)
        self.key_value = None if key_value is None or not serves(key_value, "key_value") else key_value
        self._place, self._whole, self._done = self.layout(x), None, ()
        self._batch = len(x)
        beside = self.site.joint or x.shape[1] > self._place.number
        self._is_sized = beside if self.proportional is None else self.proportional
        self._check_keep()
        if self.plan is None or self._serving("block") is None:
            return None
        merged = within(x, self._place, self.plan.num_tokens, self.plan.merge)
        self._whole = x, merged
        return merged

    def _go_on(self, x: Tensor, previous: "SiteHooks") -> Tensor | None:
        """Run on the tokens that the block before returned without unmerging them."""
        self.plan, self._place, self._batch, self._is_sized = (
            previous.plan,
            previous._place,
            previous._batch,
            previous._is_sized,
        )
        self._whole, previous._whole = previous._whole, None
        if self._whole is not None and x is not previous.returned:
            names = f"{previous.site.name} and {self.site.name}"
            raise ValueError(f"{names} cannot share merged tokens: the model changes them in between; leave out span")
        previous.returned = None
        return None if self._whole is None else x

    def _after_block(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:  # noqa: ANN401
        place, key = self._place, (self.site.name, "block", 0, self.site.output)
        if self._whole is None or self.plan is None:
            return output if self.outputs is None else _in_output(output, key[3:], lambda y, _: self._recorded(y, key, None))
        if self.is_followed:
            self.returned = output[self.site.output] if isinstance(output, tuple) else output
            return output
        (x, merged), plan = self._whole, self.plan
        self._whole = None

        def back(y: Tensor) -> Tensor:
            begin = place.begin(x.shape[1], plan.num_tokens)
            before, after = x.narrow(1, begin, plan.num_tokens), merged.narrow(1, begin, plan.num_groups)
            return before + plan.unmerge(y - after)

        def whole(y: Tensor, i: int) -> Tensor:
            y = within(y, place, plan.num_groups, back)
            return y if self.outputs is None else self._recorded(y, key, plan)

        return _in_output(output, (self.site.output,), whole)

    def _serving(self, role: str) -> Plan | None:
        """The shared plan, where tokens merge by it in a role."""
        return self.plan if role in self.roles and self.plan is not None and serves(self.plan, role) else None

    def _check_keep(self) -> None:
        if isinstance(self.plan, (MergePlan, ReadyPlan)) and self.plan.keep > 0 and self.outputs is None:
            raise ValueError(f"{self.site.name}: expected 'output' in the strategy's needs for a plan with keep={self.plan.keep}")

    def _attach_part(self, role: str, number: int, part: nn.Module) -> list[RemovableHandle]:
        signature = Signature(part)

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
            plan = None if role in self._done else self._serving(role)
            keys = self._merged_keys() if role == "self_attention" and not self._at_scores(signature) else None
            if plan is None and keys is None:
                return None
            arguments = signature.read(args, kwargs)
            x: Tensor = arguments[signature.first]
            check_arguments(self.site, role, arguments, self._place)
            changes: dict[str, Any] = {}
            if plan is not None:
                changes = self._followed(arguments, x, within(x, self._place, plan.num_tokens, plan.merge))
            given = keys is not None and keys is self.key_value and self.site.key_value is not None
            if given or (keys is not None and self._is_sized):
                check_processor(self.site, module, given=given)
            if keys is not None and given:
                assert self.site.key_value is not None
                if arguments.get(self.site.key_value) is not None:
                    reason = f"expected no '{self.site.key_value}', since key_value merges the block's own tokens"
                    raise ValueError(f"{self.site.name} {role}: {reason}")
                changes[self.site.key_value] = within(x, self._place, keys.num_tokens, keys.merge)
            if keys is not None and self._is_sized and self.site.key_bias is not None:
                changes[self.site.key_bias] = keys.sizes.log().expand(len(x), -1)[:, None].to(x.dtype)
            return signature.place(args, kwargs, changes)

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:  # noqa: ANN401
            plan, place = self._serving(role), self._place
            if role in self._done or (plan is None and (self.outputs is None or role not in self.roles)):
                return output
            if role in self.site.first_run:
                self._done += (role,)

            def back(y: Tensor, i: int) -> Tensor:
                whole = y if plan is None else within(y, place, plan.num_groups, plan.unmerge)
                return whole if self.outputs is None else self._recorded(whole, (self.site.name, role, number, i), plan)

            return _in_output(output, self.site.outputs, back)

        return [part.register_forward_pre_hook(before, with_kwargs=True), part.register_forward_hook(after)]

    def _recorded(self, whole: Tensor, key: tuple[str, str, int, int], plan: Plan | None) -> Tensor:
        """A layer's unmerged output with what its plan keeps of the last one; it is the next one's last."""
        assert self.outputs is not None
        last = self.outputs.last.get(key)
        if isinstance(plan, ReadyPlan) and plan.keep > 0 and last is not None and len(last) == len(whole):
            whole = within(whole, self._place, plan.num_tokens, partial(plan.blend, last=last))
        self.outputs.last[key] = inside(whole, self._place).detach().clone()
        return whole

    def _followed(self, arguments: dict[str, Any], x: Tensor, merged: Tensor) -> dict[str, Any]:
        """What changes among a call's arguments: the tokens, wherever they are passed, and the rows that follow them."""
        assert self.plan is not None
        changes: dict[str, Any] = {name: merged for name, value in arguments.items() if value is x}
        rows = [rows for rows in self.site.rows if arguments.get(rows.argument) is not None]
        if rows:
            index = representatives(self.plan, len(x), x.device)
            for each in rows:
                value = changes.get(each.argument, arguments[each.argument])  # a mask has rows along two axes
                changes[each.argument] = selected(value, each, self._place, index)
        return changes

    def _merged_keys(self) -> Plan | None:
        """The plan by which the keys of self-attention are merged."""
        if self.key_value is not None:
            return self.key_value
        return self._serving("block" if "block" in self.roles else "self_attention")

    def _at_scores(self, signature: Signature) -> bool:
        """Whether an attention is changed inside ``scaled_dot_product_attention``, not by its arguments."""
        return self.site.key_value is None or (bool(self.proportional) and self.site.key_bias not in signature.names)

    def _attach_scores(self, attention: nn.Module, of_others: bool = False) -> list[RemovableHandle]:
        if not self._at_scores(Signature(attention)):
            return []
        scores, handles = Scores(self._rescored, self.site.more_keys, of_others), []

        def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
            if self.key_value is not None or (self._is_sized and self._merged_keys() is not None):
                check_processor(self.site, module, given=False)
                scores.enter()

        def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
            if not scores.leave() and output is not None and not reusing_hooks(module):
                self.bypassed()

        if "key_value" in self.roles and self.rotary == "before":
            for name in sorted(self.site.key_value_maps):
                handles += self._attach_projection(attention, name)
        handles.append(attention.register_forward_pre_hook(enter))
        handles.append(attention.register_forward_hook(leave, always_call=True))
        return handles

    def _rescored(self, arguments: dict[str, Any], call: int) -> dict[str, Any]:
        plan = self._merged_keys()
        if plan is None:
            return arguments
        if len(arguments["key"]) < self._batch:  # attention is computed row by row
            plan = PlanOfRow(plan, self._batch, call)
        if self.key_value is not None:
            arguments = with_merged_keys(arguments, plan, self._place, self.rotary)
        return with_sizes(arguments, plan, self._place) if self._is_sized else arguments

    def _attach_projection(self, attention: nn.Module, name: str) -> list[RemovableHandle]:
        """Run a map of an attention's tokens to keys or values on merged ones; the rotation needs them at all positions."""
        projection = getattr(attention, name, None)
        if projection is None or getattr(attention, "fused_projections", False):
            raise ValueError(f"{self.site.name}: expected separate {', '.join(sorted(self.site.key_value_maps))}, got fused ones")

        def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            plan = self.key_value
            return None if plan is None else (within(args[0], self._place, plan.num_tokens, plan.merge), *args[1:])

        def after(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            plan = self.key_value
            return output if plan is None else within(output, self._place, plan.num_groups, lambda y: placed(y, plan))

        return [projection.register_forward_pre_hook(before), projection.register_forward_hook(after)]


def _in_output(output: Any, places: tuple[int, ...], change: Callable[[Tensor, int], Tensor]) -> Any:  # noqa: ANN401
    """Change the tokens in what a module returns, a tensor or several, by their place in it."""
    if not isinstance(output, tuple):
        return change(output, 0)
    return tuple(change(each, i) if i in places and each is not None else each for i, each in enumerate(output))
