"""Proportional attention around any strategy: a merged key counts as often as it has tokens."""

from dataclasses import dataclass

from torch import Tensor

from mergekit_diff.components import LayerContext
from mergekit_diff.plan import MergePlan
from mergekit_diff.registry import register

from .wrapper import Wrapper


@register("proportional")
@dataclass(frozen=True)
class Proportional(Wrapper):
    """Add the logarithm of a group's size to the scores of its key. ToMe, Bolya et al. (2023), arXiv 2210.09461.

    Softmax over M merged keys then weighs them as it would weigh the N tokens, were the tokens of a group equal. ToMeSD leaves
    it out (Bolya and Hoffman 2023, arXiv 2303.17604).
    """

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan | None:
        """The inner strategy's plan, marked."""
        plan = self.inner.plan(x, ctx)
        return None if plan is None else MergePlan(plan.assign, plan.rep, plan.weight, proportional=True)
