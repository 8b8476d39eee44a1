"""ToMe: bipartite soft matching between every second token and the others."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mergekit_diff.components import LayerContext, MergeStrategy, RatioSchedule, SimilarityMetric
from mergekit_diff.plan import MergePlan
from mergekit_diff.reductions import Mean, Reduction
from mergekit_diff.registry import one_of, register
from mergekit_diff.schedules import Constant
from mergekit_diff.similarity import Cosine

from .matching import matched


@register("tome")
@dataclass(frozen=True)
class ToMe(MergeStrategy):
    """Match tokens at even places with those at odd places, by their keys. Bolya et al. (2023), arXiv 2210.09461.

    The r tokens at even places, in raster order, that are most similar to their nearest one at an odd place merge into it, as a
    mean; log sizes are added to the scores of merged keys. The paper averages keys over heads and so does this. Time grows with N
    squared. In the paper tokens stay merged from layer to layer; here every block merges anew.

    Args:
        ratio: share of all tokens that is merged away; at most 1/2.
        tokens: what is compared: the "keys", the "normalized" input of the attention, or the input of the "block". A block whose
            norm also reads the timestep gives its input instead of keys.
        metric: how similar two tokens are.
        reduction: how a destination and its sources become one.
    """

    needs = ("keys", "normalized")
    proportional = True
    max_ratio = 0.5

    ratio: RatioSchedule = Constant(0.5)
    tokens: str = "keys"
    metric: SimilarityMetric = Cosine()
    reduction: Reduction = Mean()

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.tokens, ("keys", "normalized", "block"), "tokens of strategy 'tome'")

    def asks(self) -> tuple[str, ...]:
        """What ``tokens`` says, unless it is the block's input."""
        return () if self.tokens == "block" else (self.tokens,)

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan:
        """Matching for (B, N, C) tokens."""
        batch, n, _ = x.shape
        compared = x if self.tokens == "block" else ctx.signals[self.tokens]
        order = torch.arange(n, device=x.device).expand(batch, -1)
        count = min(int(n * self.ratio(ctx)), n // 2)
        return matched(compared, order[:, ::2], order[:, 1::2], count, self.metric, self.reduction)
