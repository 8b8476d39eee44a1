"""Local matching: ToMeSD's choice of the best pairs, without its search over the grid."""

from dataclasses import dataclass

from torch import Tensor

from mergekit_diff.components import LayerContext, MergeStrategy, RatioSchedule, SimilarityMetric, WindowSchedule, register
from mergekit_diff.plan import MergePlan
from mergekit_diff.schedules import Constant, Fixed
from mergekit_diff.similarity import Cosine
from mergekit_diff.windows import merge_over_grid, random_representative


@register("local-match")
@dataclass(frozen=True)
class LocalMatch(MergeStrategy):
    """Match every source with its own window's destination; the best pairs of the grid merge. This project (2026).

    ToMeSD (Bolya and Hoffman 2023, arXiv 2303.17604) with the search for the nearest destination kept inside the window: time
    grows with N instead of its square, and unlike ``retom`` even regions give more tokens than detailed ones.

    Args:
        ratio: share of all tokens that is merged away; at most the share of sources, 3/4 for 2x2.
        window: holds one destination each, a random one.
        metric: how alike two tokens are; the pairs of all windows are ranked by it.
    """

    levels = 1

    ratio: RatioSchedule = Constant(0.5)
    window: WindowSchedule = Fixed(2)
    metric: SimilarityMetric = Cosine()

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan:
        """One random destination a window for (B, N, C) tokens, the same for every row of the batch."""
        return merge_over_grid(x, ctx, self.window, self.ratio, random_representative(self.metric, ctx.noise))
