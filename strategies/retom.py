"""ReToM: a local representative for each window."""

from dataclasses import dataclass

from torch import Tensor

from mergekit_diff.components import LayerContext, MergeStrategy, RatioSchedule, SimilarityMetric, WindowSchedule
from mergekit_diff.plan import MergePlan, pick
from mergekit_diff.reductions import Mean, Reduction
from mergekit_diff.registry import register
from mergekit_diff.schedules import ByStage, Constant
from mergekit_diff.similarity import Cosine

from .merging_in_windows import check_alpha, merge_in_windows


@register("retom")
@dataclass(frozen=True)
class ReToM(MergeStrategy):
    """Merge into each window's token of highest mean similarity. ReToM (2025), arXiv 2507.12771.

    With D the representative and S the r_w tokens of the window most similar to it, the merged token is
    ``alpha * D + (1 - alpha) * mean(S)``. The paper gives neither window sizes nor alpha nor the cache period R.

    Args:
        ratio: share of every window that is merged away.
        window: small in down and up blocks, large in the middle.
        metric: how similar two tokens are.
        alpha: weight of the representative in the merged token, in [0, 1]; None is the plain mean, 1 / (r_w + 1).
        reduction: how D and S become one.
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
        """One representative a window, for (B, N, C) tokens."""
        return merge_in_windows(x, ctx, self.window, self.ratio, self.alpha, self.reduction, self._choose)

    def _choose(self, tokens: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        similarity = self.metric(tokens, tokens)
        to_others = similarity.sum(-1) - similarity.diagonal(dim1=-2, dim2=-1)
        chosen = to_others.argmax(-1, keepdim=True)
        return chosen, pick(similarity, chosen[..., None, :]).squeeze(-1)
