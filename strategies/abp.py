"""BiGain's ABP: whole tiles become one token where the image is smooth."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mergekit_diff.components import LayerContext, MergeStrategy, RatioSchedule, WindowSchedule
from mergekit_diff.plan import MergePlan, top
from mergekit_diff.reductions import Mean, Reduction
from mergekit_diff.registry import one_of, register
from mergekit_diff.schedules import Constant, Fixed
from mergekit_diff.windows import windows

from .lgtm import laplacian
from .matching import joined


@register("abp")
@dataclass(frozen=True)
class ABP(MergeStrategy):
    """Merge every token of the smoothest tiles into one; all others stay. BiGain (2026), arXiv 2603.12240.

    A tile's score pools the Laplacians of its k tokens (those of ``lgtm``). The ``r // (k - 1)`` tiles of the lowest score
    become one token each, whose position is that of the tile's first token. Tiles that the border cuts smaller stay as they are,
    unless all are cut. No similarity is computed, so that planning is linear in N.

    Args:
        ratio: share of all tokens that is merged away; at most 3/4 for 2x2, less where the border cuts tiles.
        tile: the windows that merge as a whole.
        pool: "mean" (the same as their sum, for tiles of one size) or "max" of the Laplacians.
        reduction: how a tile becomes one token.
    """

    ratio: RatioSchedule = Constant(0.5)
    tile: WindowSchedule = Fixed(2)
    pool: str = "mean"
    reduction: Reduction = Mean()

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.pool, ("mean", "max"), "pool of strategy 'abp'")

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan:
        """The smoothest tiles for (B, N, C) tokens, in every row its own."""
        batch, n, _ = x.shape
        groups = windows(ctx, self.tile, x.device).groups
        size = max(group.shape[1] for group in groups)
        tiles = torch.cat([group for group in groups if group.shape[1] == size])
        detail = laplacian(x, ctx.grid)[:, tiles]
        score = detail.mean(-1) if self.pool == "mean" else detail.amax(-1)
        count = min(int(n * self.ratio(ctx)) // max(size - 1, 1), len(tiles)) if size > 1 else 0
        targets = torch.where(top(-score, count)[..., None], tiles[:, :1], tiles)
        sources = tiles.flatten().expand(batch, -1)
        return joined(n, sources, targets.flatten(1), count * (size - 1), self.reduction)
