"""StreamingLLM: the oldest keys leave the cache."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mergekit_diff.components import LayerContext, MergeStrategy, RatioSchedule
from mergekit_diff.plan import MergePlan
from mergekit_diff.registry import register
from mergekit_diff.schedules import Constant

from .evicting import evicted


@register("streaming")
@dataclass(frozen=True)
class Streaming(MergeStrategy):
    """Drop the oldest tokens but the first of the text; texts only. StreamingLLM, Xiao et al. (2023), arXiv 2309.17453.

    A control for merging: a cache of the same size that holds the newest tokens and, since these always stay whole, the first
    ones, the attention sinks. The paper counts positions in the cache; here every token keeps its own.

    Args:
        ratio: share of all tokens that is dropped.
    """

    roles = ("key_value",)
    proportional = False
    axes = (1,)

    ratio: RatioSchedule = Constant(0.5)

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan:
        """The last of (B, N, C) tokens stay."""
        n = x.shape[1]
        kept = torch.arange(n, device=x.device)[min(int(n * self.ratio(ctx)), n - 1) :]
        return evicted(n, kept.expand(len(x), -1))
