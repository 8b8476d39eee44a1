"""Random destinations: ReToM's windows with a random representative."""

from dataclasses import dataclass

from torch import Tensor

from mergekit_diff.components import LayerContext
from mergekit_diff.plan import MergePlan
from mergekit_diff.registry import register

from .merging_in_windows import MergingInWindows


@register("random-dest")
@dataclass(frozen=True)
class RandomDest(MergingInWindows):
    """Merge into a random token of each window, as a control. ReToM's second experiment, arXiv 2507.12771.

    It is ``retom-paper`` with ``representative="random"`` and a plan for every step. The destination of a window is the same for
    every row of a batch, so that both halves of guidance always share it; with others, only ``share="cfg"`` does that.
    """

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan:
        """One random destination a window, the same for every row of the batch."""
        return self.merge(x, ctx, "random")
