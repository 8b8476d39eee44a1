"""BiGain's LGTM: matching whose destinations lie where the image is smooth."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mergekit_diff.components import LayerContext, MergeStrategy, RatioSchedule, SimilarityMetric, WindowSchedule
from mergekit_diff.plan import MergePlan, pick
from mergekit_diff.reductions import Mean, Reduction
from mergekit_diff.registry import register
from mergekit_diff.schedules import Constant, Fixed
from mergekit_diff.similarity import Cosine
from mergekit_diff.windows import windows

from .matching import apart, highest, matched


@register("lgtm")
@dataclass(frozen=True)
class LGTM(MergeStrategy):
    """Match every source with its nearest destination, the smoothest token of a window. BiGain (2026), arXiv 2603.12240.

    Smoothness is minus the Laplacian, ``sum_c |K * x_c|`` with K = [0 1 0; 1 -4 1; 0 1 0]; beyond the border the grid is
    continued by its outermost tokens, since zeros would make every border look detailed. Frames of a video are apart.
    The r sources most similar to their destination merge into it. Nothing is random. Time grows with N squared.

    Args:
        ratio: share of all tokens that is merged away; at most the share of sources, 3/4 for 2x2.
        stride: the windows that have one destination each.
        protect: this share of the sources, those of the largest Laplacian, never merges; in [0, 1].
        metric: how similar two tokens are.
        reduction: how a destination and its sources become one.
    """

    ratio: RatioSchedule = Constant(0.5)
    stride: WindowSchedule = Fixed(2)
    protect: float = 0.0
    metric: SimilarityMetric = Cosine()
    reduction: Reduction = Mean()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.protect <= 1:
            raise ValueError(f"expected protect in [0, 1], got {self.protect}")

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan:
        """Matching for (B, N, C) tokens; every row has destinations of its own."""
        n, detail = x.shape[1], laplacian(x, ctx.grid)
        destinations, sources = apart(highest(-detail, windows(ctx, self.stride, x.device)), n)
        free = sources.shape[1] - int(self.protect * sources.shape[1])
        sources = pick(sources, detail.gather(1, sources).topk(free, largest=False).indices)
        count = min(int(n * self.ratio(ctx)), free)
        return matched(x, sources, destinations, count, self.metric, self.reduction)


def laplacian(x: Tensor, grid: tuple[int, ...]) -> Tensor:
    """(B, N) sum over channels of the absolute Laplacian of (B, N, C) tokens along the last two axes of their grid.

    >>> laplacian(torch.tensor([[[0.0], [0.0], [3.0], [0.0]]]), (4,))
    tensor([[0., 3., 6., 3.]])
    """
    image = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(1, grid).movedim(-1, 1)
    total = torch.zeros_like(image)
    for axis in range(max(2, image.dim() - 2), image.dim()):
        step = image.transpose(axis, -1).diff(dim=-1)
        total += (F.pad(step, (0, 1)) - F.pad(step, (1, 0))).transpose(axis, -1)
    return total.abs().sum(1).flatten(1)
