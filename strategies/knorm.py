"""KNorm: keys of a large norm leave the cache."""

from dataclasses import dataclass

from torch import Tensor

from mergekit_diff.components import LayerContext, MergeStrategy, RatioSchedule
from mergekit_diff.plan import MergePlan
from mergekit_diff.registry import register
from mergekit_diff.schedules import Constant

from .evicting import evicted


@register("knorm")
@dataclass(frozen=True)
class KNorm(MergeStrategy):
    """Drop the tokens whose keys have the largest norm; texts only. L2 norm, Devoto et al. (2024), arXiv 2406.11430.

    In language models tokens with keys of a small norm get the most attention. A control for merging: it makes the same cache
    smaller by eviction. The paper ranks keys for each head and spares the first two layers; here all heads share one plan, by the
    mean norm of their keys, and every layer drops as much.

    Args:
        ratio: share of all tokens that is dropped.
    """

    roles = ("key_value",)
    needs = ("key_norm",)
    proportional = False
    axes = (1,)

    ratio: RatioSchedule = Constant(0.5)

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan:
        """The (B, N, C) tokens of the smallest norms stay."""
        n = x.shape[1]
        kept = ctx.signals["key_norm"].topk(max(1, n - int(n * self.ratio(ctx))), largest=False).indices
        return evicted(n, kept.sort().values)
