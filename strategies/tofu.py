"""Token Fusion: prune in early blocks, merge in later ones."""

from dataclasses import dataclass

from torch import Tensor

from mergekit_diff.components import LayerContext, MergeStrategy, RatioSchedule, SimilarityMetric, WindowSchedule
from mergekit_diff.plan import MergePlan
from mergekit_diff.reductions import Mlerp, Pick
from mergekit_diff.registry import register
from mergekit_diff.schedules import Constant, Fixed
from mergekit_diff.similarity import Cosine
from mergekit_diff.windows import windows

from .matching import apart, highest, matched

PRUNE, MERGE = Pick(), Mlerp()  # made here, since torch.compile cannot trace the making of a part


@register("tofu")
@dataclass(frozen=True)
class ToFu(MergeStrategy):
    """Prune in the first blocks, merge with MLERP in the others. Token Fusion, Kim et al. (2024), arXiv 2312.01026.

    The matching is that of ``tomesd``. Blocks that are far from linear keep a destination alone, since a mean is no input that
    they know; the others keep the group's mean at the largest norm of its tokens, the destination's own among them. The paper
    measures how linear blocks are and finds the early ones far from it; here depth decides.

    Args:
        ratio: share of all tokens that is merged away; at most the share of sources, 3/4 for 2x2.
        stride: the windows that have one random destination each.
        metric: how similar two tokens are.
        pruned: share of the sites, from the first on, that prune; in [0, 1].
    """

    levels = 1

    ratio: RatioSchedule = Constant(0.5)
    stride: WindowSchedule = Fixed(2)
    metric: SimilarityMetric = Cosine()
    pruned: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.pruned <= 1:
            raise ValueError(f"expected pruned in [0, 1], got {self.pruned}")

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan:
        """Matching for (B, N, C) tokens; time grows with N squared."""
        n, chosen = x.shape[1], highest(ctx.noise[None], windows(ctx, self.stride, x.device))
        destinations, sources = (part.expand(len(x), -1) for part in apart(chosen, n))
        count = min(int(n * self.ratio(ctx)), sources.shape[1])
        reduction = PRUNE if ctx.depth < self.pruned * ctx.num_sites else MERGE
        return matched(x, sources, destinations, count, self.metric, reduction)
