"""Random destinations: ReToM's windows with a random representative."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mergekit_diff.components import LayerContext, MergeStrategy, RatioSchedule, SimilarityMetric, WindowSchedule
from mergekit_diff.plan import MergePlan
from mergekit_diff.reductions import Mean, Reduction
from mergekit_diff.registry import register
from mergekit_diff.schedules import ByStage, Constant
from mergekit_diff.similarity import Cosine

from .merging_in_windows import check_alpha, merge_in_windows


@register("random-dest")
@dataclass(frozen=True)
class RandomDest(MergeStrategy):
    """Merge into a random token of each window: the control of the second experiment of ReToM, arXiv 2507.12771.

    Args:
        ratio: share of every window that is merged away.
        window: as in ``retom``.
        metric: chooses the sources, the tokens most similar to the random destination.
        alpha: as in ``retom``.
        reduction: as in ``retom``.
    """

    refresh = 20

    ratio: RatioSchedule = Constant(0.5)
    window: WindowSchedule = ByStage()
    metric: SimilarityMetric = Cosine()
    alpha: float | None = None
    reduction: Reduction = Mean()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_alpha(self.alpha, self.reduction)

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan:
        """One random destination a window, the same for every row of the batch."""

        def choose(tokens: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
            chosen = ctx.noise[indices].argmax(-1, keepdim=True)
            count, k = indices.shape[1:]
            rows = chosen[0, :, 0] + k * torch.arange(count, device=x.device)
            destinations = tokens.flatten(1, 2).index_select(1, rows)
            return chosen, self.metric(tokens, destinations[:, :, None]).squeeze(-1)

        return merge_in_windows(x, ctx, self.window, self.ratio, self.alpha, self.reduction, choose)
