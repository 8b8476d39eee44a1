"""ToDo: keys and values on a coarser grid."""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from mergekit_diff.components import LayerContext, MergeStrategy, RatioSchedule
from mergekit_diff.plan import MergePlan
from mergekit_diff.reductions import Pick
from mergekit_diff.registry import register
from mergekit_diff.schedules import Constant

PICK = Pick()  # made here, since torch.compile cannot trace the making of a part


@register("downsample")
@dataclass(frozen=True)
class Downsample(MergeStrategy):
    """Keep keys and values on a grid resized by nearest neighbor. ToDo, Smith et al. (2024), arXiv 2402.13573.

    Every side is multiplied by ``(1 - ratio) ** (1 / axes)``. No similarity is computed, so planning costs next to nothing.

    Args:
        ratio: share of the tokens that is dropped.
    """

    roles = ("key_value",)

    ratio: RatioSchedule = Constant(0.75)

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan:
        """One plan (1, N) for all rows of the batch."""
        scale = (1 - self.ratio(ctx)) ** (1 / len(ctx.grid))
        target = torch.zeros(1, device=x.device, dtype=torch.long)
        groups = 1
        for side in ctx.grid:
            kept = max(1, round(side * scale))
            target = rearrange(target[:, None] * side + self._along(side, kept, x.device), "a b -> (a b)")
            groups *= kept
        return MergePlan.from_target(target[None], groups, reduction=PICK)

    def _along(self, side: int, kept: int, device: torch.device) -> Tensor:
        """(side,) for every position of an axis, the nearest of the ``kept`` positions that resizing reads."""
        read = positions_read(side, kept, device)
        return read[torch.bucketize(2 * torch.arange(side, device=device), read[:-1] + read[1:])]  # of two as near, the first


def positions_read(side: int, kept: int, device: torch.device) -> Tensor:
    """(kept,) positions of an axis that resizing by nearest neighbor reads."""
    return ((torch.arange(kept, device=device) + 0.5) * side / kept).long()
