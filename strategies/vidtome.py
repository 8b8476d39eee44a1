"""VidToMe: the frames of a chunk merge into one of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mergekit_diff.components import LayerContext, MergeStrategy, RatioSchedule, SimilarityMetric
from mergekit_diff.plan import MergePlan, pick, top
from mergekit_diff.reductions import Pick, Reduction
from mergekit_diff.registry import register
from mergekit_diff.schedules import Constant
from mergekit_diff.similarity import Cosine

from .matching import joined, nearest, rows


@register("vidtome")
@dataclass(frozen=True)
class VidToMe(MergeStrategy):
    """Merge the frames of a chunk into a random one of them; videos only. VidToMe, Li et al. (2024), arXiv 2312.10656.

    In every chunk of frames, the tokens of one random frame are the destinations. Of all others, those most similar to their
    nearest destination are replaced by it. The same frames are drawn for every row of a batch.
    This is the method's local step, once. The paper repeats it with the destinations of all chunks until one frame is left, and
    matches that with a bank of earlier chunks. Time grows with N times the tokens of a chunk.

    Args:
        ratio: share of all tokens that is merged away; at most 3/4 for chunks of 4 frames. The default is the paper's 0.9 of the
            tokens that are not destinations.
        chunk: frames in a chunk, at least 1.
        metric: how similar two tokens are.
        reduction: how a destination and its sources become one.
    """

    axes = (3,)

    ratio: RatioSchedule = Constant(0.675)
    chunk: int = 4
    metric: SimilarityMetric = Cosine()
    reduction: Reduction = Pick()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk < 1:
            raise ValueError(f"expected chunk to be at least 1 frame, got {self.chunk}")

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan:
        """Matching within every chunk of (B, N, C) tokens.

        Raises:
            ValueError: the grid has no frames.
        """
        if len(ctx.grid) != 3:
            raise ValueError(f"strategy 'vidtome': expected a grid of frames, height and width at {ctx.site}, got {ctx.grid}")
        frames = torch.arange(x.shape[1], device=x.device).view(ctx.grid[0], -1)
        draws, ratio = ctx.noise.view_as(frames)[:, 0].split(self.chunk), self.ratio(ctx)
        sources, targets, total = [], [], 0
        for chunk, draw in zip(frames.split(self.chunk), draws, strict=True):
            order = chunk.index_select(0, draw.argsort(descending=True))
            there, here = (part.flatten().expand(len(x), -1) for part in (order[:1], order[1:]))
            count = min(round(ratio * chunk.numel()), here.shape[1])
            score, index = nearest(rows(x, here), rows(x, there), self.metric)
            sources.append(here)
            targets.append(torch.where(top(score, count), pick(there, index), here))
            total += count
        return joined(x.shape[1], torch.cat(sources, 1), torch.cat(targets, 1), total, self.reduction)
