"""AsymRnR: keys and values of a video, reduced by dropping the tokens nearest to a random one of every cube."""

from dataclasses import dataclass

from torch import Tensor

from mergekit_diff.components import LayerContext, MergeStrategy, RatioSchedule, SimilarityMetric, WindowSchedule
from mergekit_diff.plan import MergePlan
from mergekit_diff.reductions import Pick, Reduction
from mergekit_diff.registry import register
from mergekit_diff.schedules import Constant, Cube
from mergekit_diff.similarity import Euclidean
from mergekit_diff.windows import windows

from .matching import apart, highest, matched


@register("asymrnr")
@dataclass(frozen=True)
class AsymRnR(MergeStrategy):
    """Drop the keys and values nearest to a random one of every 2x2x2 cube. AsymRnR, Sun et al. (2025), arXiv 2412.11706.

    One random destination in every cube, the same for every row of a batch. Of all others, ``int(N * (1 - ratio))`` less the
    destinations stay, those of the largest distance to their nearest destination; the rest is replaced by it. A plan is kept
    for 5 steps. The paper plans for each head on queries or values themselves, with a ratio for each layer and step from a
    file; here all heads share one plan, made from the block's input.

    Args:
        ratio: share of all tokens that is dropped; at most the share of sources, 7/8 for 2x2x2 and 3/4 on a grid without frames.
        stride: the windows that have one destination each; by default they reach over frames.
        metric: how similar two tokens are; the paper's is minus the squared distance, which ranks as this one does.
        reduction: how a destination and its sources become one.
    """

    roles = ("key_value",)
    refresh = 5

    ratio: RatioSchedule = Constant(0.3)
    stride: WindowSchedule = Cube(2)
    metric: SimilarityMetric = Euclidean()
    reduction: Reduction = Pick()

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan:
        """Matching for (B, N, C) tokens; time grows with N squared."""
        n, chosen = x.shape[1], highest(ctx.noise[None], windows(ctx, self.stride, x.device))
        destinations, sources = (part.expand(len(x), -1) for part in apart(chosen, n))
        count = min(n - int(n * (1 - self.ratio(ctx))), sources.shape[1])
        return matched(x, sources, destinations, count, self.metric, self.reduction)
