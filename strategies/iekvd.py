"""BiGain's IEKVD: keys and values between the nearest token and the mean of the pooled ones."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from mergekit_diff.components import LayerContext, RatioSchedule
from mergekit_diff.plan import MergePlan
from mergekit_diff.reductions import Mean
from mergekit_diff.registry import register
from mergekit_diff.schedules import Constant

from .downsample import Downsample, positions_read

MEAN = Mean()


@register("iekvd")
@dataclass(frozen=True)
class IEKVD(Downsample):
    """Keep keys and values on a coarser grid, as a blend of nearest token and mean. BiGain (2026), arXiv 2603.12240.

    The grid is that of ``downsample``, read from pools that split it evenly, and a pool becomes
    ``(1 - average) * nearest + average * mean``. The paper's factor follows the timestep and may leave [0, 1] to extrapolate; a
    plan's weights are shares, so here it does not.

    Args:
        ratio: share of the tokens that is dropped.
        average: weight of the mean, in [0, 1). A schedule over the steps, as in the paper, has a plan for each of its values, and
            a compiled session a graph.
    """

    ratio: RatioSchedule = Constant(0.75)
    average: RatioSchedule = Constant(0.5)

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan:
        """One plan (1, N) for all rows of the batch."""
        plan, average = super().plan(x, ctx), self.average(ctx)
        shared = average / plan.sizes.gather(1, plan.assign)
        is_nearest = torch.zeros_like(shared).scatter_(1, plan.rep, 1.0)
        return dataclasses.replace(plan, weight=shared + (1 - average) * is_nearest, reduction=MEAN)

    def _along(self, side: int, kept: int, device: torch.device) -> Tensor:
        """(side,) for every position of an axis, the one that is read of its pool: the ``kept`` pools split the axis evenly."""
        pool = ((torch.arange(side, device=device) + 0.5) * kept / side).long()
        return positions_read(side, kept, device)[pool]
