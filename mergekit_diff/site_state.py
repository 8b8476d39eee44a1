"""What the hooks of one site share: how it merges, and its plans in the call that runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from .arguments import Signature
from .plan import MergePlan, Plan, serves
from .ready import ReadyPlan
from .recording import Outputs
from .rows import inside, representatives, selected, within
from .sites import Layout, Site


@dataclass(eq=False)
class SiteState:
    """How a site merges, and what is known of the call that runs.

    Args:
        site: where.
        roles: those that merge.
        proportional: whether keys have log sizes; None is where tokens that do not merge attend beside those that may.
        rotary: how keys merge that are rotated by their positions.
        outputs: where the outputs of the layers are recorded; None if they are not.
        plan: that all roles but "key_value" share; None where nothing is merged.
        key_value: that of "key_value".
        place: where the grid's tokens are in the block's input.
        batch: rows of it.
        is_sized: whether keys have log sizes in this call.
        done: roles whose submodule has run on the site's tokens.
    """

    site: Site
    roles: tuple[str, ...]
    proportional: bool | None
    rotary: str
    outputs: Outputs | None
    plan: Plan | None = None
    key_value: Plan | None = None
    place: Layout = field(default_factory=lambda: Layout(()))
    batch: int = 1
    is_sized: bool = False
    done: tuple[str, ...] = ()

    def begin(self, plan: Plan | None, key_value: Plan | None, place: Layout, x: Tensor) -> None:
        """The block is called with (B, L, C) tokens.

        Raises:
            ValueError: the plan keeps a part of the last output, which is not recorded.
        """
        self.plan = plan
        self.key_value = None if key_value is None or not serves(key_value, "key_value") else key_value
        self.place, self.batch, self.done = place, len(x), ()
        beside = self.site.joint or x.shape[1] > place.number
        self.is_sized = beside if self.proportional is None else self.proportional
        if isinstance(plan, (MergePlan, ReadyPlan)) and plan.keep > 0 and self.outputs is None:
            raise ValueError(f"{self.site.name}: expected 'output' in the strategy's needs for a plan with keep={plan.keep}")

    def follow(self, other: "SiteState") -> None:
        """The block is called with the tokens that another one merged."""
        self.plan, self.key_value, self.done = other.plan, None, ()
        self.place, self.batch, self.is_sized = other.place, other.batch, other.is_sized

    @property
    def changes_attention(self) -> bool:
        """Whether self-attention may have other keys than the block's own tokens."""
        sized = self.site.key_value is None if self.proportional is None else self.proportional
        return "key_value" in self.roles or (sized and not {"self_attention", "block"}.isdisjoint(self.roles))

    def serving(self, role: str) -> Plan | None:
        """The shared plan, where tokens merge by it in a role."""
        return self.plan if role in self.roles and self.plan is not None and serves(self.plan, role) else None

    def merged_keys(self) -> Plan | None:
        """The plan by which the keys of self-attention are merged."""
        if self.key_value is not None:
            return self.key_value
        return self.serving("block" if "block" in self.roles else "self_attention")

    def at_scores(self, signature: Signature) -> bool:
        """Whether an attention is changed inside ``scaled_dot_product_attention``, not by its arguments."""
        return self.site.key_value is None or (bool(self.proportional) and self.site.key_bias not in signature.names)

    def followed(self, arguments: Mapping[str, Any], x: Tensor, merged: Tensor) -> dict[str, Any]:
        """What changes among a call's arguments: the tokens, wherever they are passed, and the rows that follow them."""
        assert self.plan is not None
        changes: dict[str, Any] = {name: merged for name, value in arguments.items() if value is x}
        rows = [rows for rows in self.site.rows if arguments.get(rows.argument) is not None]
        if rows:
            index = representatives(self.plan, len(x), x.device)
            for each in rows:
                value = changes.get(each.argument, arguments[each.argument])  # a mask has rows along two axes
                changes[each.argument] = selected(value, each, self.place, index)
        return changes

    def recorded(self, whole: Tensor, key: tuple[str, str, int, int], plan: Plan | None) -> Tensor:
        """A layer's unmerged output with what its plan keeps of the last one; it is the next one's last."""
        if self.outputs is None:
            return whole
        last = self.outputs.last.get(key)
        if isinstance(plan, ReadyPlan) and plan.keep > 0 and last is not None and len(last) == len(whole):
            whole = within(whole, self.place, plan.num_tokens, partial(plan.blend, last=last))
        self.outputs.last[key] = inside(whole, self.place).detach().clone()
        return whole
