"""PiToMe: merge among the tokens that have many like them, and protect the others."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mergekit_diff.components import LayerContext, MergeStrategy, RatioSchedule
from mergekit_diff.plan import MergePlan
from mergekit_diff.reductions import Mean, Reduction
from mergekit_diff.registry import register
from mergekit_diff.schedules import ByDepth, Constant
from mergekit_diff.similarity import Dot

from .matching import ROWS, directions, matched

COSINE = Dot()  # of directions


@register("pitome")
@dataclass(frozen=True)
class PiToMe(MergeStrategy):
    """Merge tokens of high energy, those with many like them, and protect the rest. Tran et al. (2024), arXiv 2405.16148.

    With cosines S_ij, ``energy_i = mean_j ELU(S_ij - margin)``. The 2r tokens of the highest energy are ranked by it; each of
    those at even ranks merges into the most similar one at odd ranks. All N squared cosines are computed, in chunks of rows.

    Args:
        ratio: share of all tokens that is merged away; at most 1/2.
        margin: below this cosine tokens count as different; in [0, 1). By default ``0.9 - 0.9 * depth / (sites - 1)``, as in the
            paper's vision transformers.
        reduction: how a destination and its sources become one.
    """

    max_ratio = 0.5

    ratio: RatioSchedule = Constant(0.5)
    margin: RatioSchedule = ByDepth(0.9, 0.0)
    reduction: Reduction = Mean()

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan:
        """Ranks by energy, for (B, N, C) tokens."""
        n, unit, margin = x.shape[1], directions(x), self.margin(ctx)
        count = min(int(n * self.ratio(ctx)), n // 2)
        energy = torch.cat([F.elu(part @ unit.mT - margin).mean(-1) for part in unit.split(ROWS, 1)], 1)
        order = energy.sort(descending=True, stable=True).indices[:, : 2 * count]
        return matched(unit, order[:, ::2], order[:, 1::2], count, COSINE, self.reduction)
