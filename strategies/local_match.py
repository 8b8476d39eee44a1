"""Local matching: ToMeSD's choice of the best pairs, without its search over the whole grid."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mergekit_diff.components import LayerContext, MergeStrategy, RatioSchedule, SimilarityMetric, WindowSchedule
from mergekit_diff.plan import MergePlan, pick, top
from mergekit_diff.ready import through_batch
from mergekit_diff.reductions import Mean, Reduction
from mergekit_diff.registry import register
from mergekit_diff.schedules import Constant, Fixed
from mergekit_diff.similarity import Cosine
from mergekit_diff.windows import Windows, windows, windows_in_blocks


@register("local-match")
@dataclass(frozen=True)
class LocalMatch(MergeStrategy):
    """Match every source with the nearest destination of its own block; the best pairs of the grid merge. This project (2026).

    ToMeSD (Bolya and Hoffman 2023, arXiv 2303.17604) with the search limited to blocks, so that time and memory grow linearly
    with N. It merges more in uniform regions than in detailed ones, so its groups differ in size; log sizes give their keys
    the weight of all their tokens.
    Its defaults are the project's preset: three quarters of the keys and values on two levels, a new plan every step.

    Args:
        ratio: share of all tokens that is merged away; at most the share of sources, 15/16 for 4x4. Near that limit every source
            must merge, wherever it fits.
        stride: the windows that have one random destination each.
        reach: side of a block, in windows of ``stride``; at least 1.
        metric: how similar two tokens are; it ranks the pairs of all blocks.
        reduction: how a destination and its sources become one.
    """

    roles = ("key_value",)
    levels = 2
    proportional = True

    ratio: RatioSchedule = Constant(0.75)
    stride: WindowSchedule = Fixed(4)
    reach: int = 4
    metric: SimilarityMetric = Cosine()
    reduction: Reduction = Mean()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reach < 1:
            raise ValueError(f"expected reach to be at least 1 window, got {self.reach}")

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan:
        """One random destination a window for (B, N, C) tokens, the same for every row of the batch."""
        batch, n, channels = x.shape
        small, blocks = windows(ctx, self.stride, x.device), windows(ctx, self.stride, x.device, times=self.reach)
        is_destination = _destinations(small, ctx.noise)
        rows = x.reshape(-1, channels)
        sources, scores, targets = [], [], []
        for block, count in zip(blocks.groups, windows_in_blocks(ctx, self.stride, self.reach), strict=True):
            order = is_destination[block].sort(descending=True, stable=True).indices
            there, here = (block.gather(1, part).expand(batch, -1, -1) for part in (order[:, :count], order[:, count:]))
            tokens = (rows.index_select(0, through_batch(i.flatten(1), n)).view(*i.shape, channels) for i in (here, there))
            score, nearest = self.metric(*tokens).max(-1)
            sources.append(here.flatten(1))
            scores.append(score.flatten(1))
            targets.append(pick(there, nearest).flatten(1))
        target, kept = _merge_best(torch.cat(sources, 1), torch.cat(targets, 1), torch.cat(scores, 1), n, self.ratio(ctx))
        return MergePlan.from_target(target, kept, reduction=self.reduction)


def _merge_best(sources: Tensor, targets: Tensor, scores: Tensor, n: int, ratio: float) -> tuple[Tensor, int]:
    """The (B, n) targets with which the best pairs of (B, S) merge, as many as the ratio asks for, and the tokens kept."""
    r = min(round(ratio * n), sources.shape[1])
    target = torch.arange(n, device=sources.device).repeat(len(sources), 1)
    target.scatter_(1, sources, torch.where(top(scores, r), targets, sources))
    return target, n - r


def _destinations(small: Windows, noise: Tensor) -> Tensor:
    """(N,) uint8, 1 where the noise is the largest of its window."""
    chosen = [g.gather(1, noise[g].argmax(-1, keepdim=True)).flatten() for g in small.groups]
    mask = torch.zeros(len(noise), dtype=torch.uint8, device=noise.device)
    return mask.index_fill_(0, torch.cat(chosen), 1)
