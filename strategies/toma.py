"""ToMA: diverse destinations of each tile, and a soft assignment to them that is transposed on the way back."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mergekit_diff.components import LayerContext, MergeStrategy, RatioSchedule, WindowSchedule
from mergekit_diff.plan import pick
from mergekit_diff.registry import register
from mergekit_diff.schedules import Constant, Fixed
from mergekit_diff.similarity import Cosine
from mergekit_diff.soft import SoftPlan
from mergekit_diff.windows import windows

TIE = 1e-5  # how much more a later token must gain, for each place that it is behind
COSINE = Cosine()  # made here, since torch.compile cannot trace the making of a part


@register("toma")
@dataclass(frozen=True)
class ToMA(MergeStrategy):
    """Soft merging inside tiles, to and from well-spread destinations. ToMA, Lu et al. (2025), arXiv 2509.10918.

    With S the cosines of a tile's tokens, destinations D are chosen one by one so that every token has a near one (facility
    location, by greedy search): the next is ``argmax_j sum_i max(S_ij - m_i, 0)``, where ``m_i`` is the largest ``S_id`` of the
    d chosen so far, and the first ``argmax_j sum_i S_ij``. Two tokens that gain by each other alone gain the same, so that
    rounding would decide: here the first of them is taken. With A = softmax over D of ``sharpness * S_D``, merging is A with
    rows scaled to sum to 1, unmerging A transposed. Rotary tables are read at the destinations.

    Each row of a batch has destinations of its own, while the authors' code takes the first row's for all. The search takes as
    many passes over a tile's n x n cosines as it keeps tokens, so large tiles are slow to plan, and slow to compile. A group's
    size, for log sizes, is the sum of its weights in A.

    Args:
        ratio: share of every tile that is merged away; at least one token is kept.
        window: the tiles; 4x4 is the authors' 256 tiles at 64x64 tokens.
        sharpness: of the softmax; the larger, the nearer to a partition.
    """

    ratio: RatioSchedule = Constant(0.5)
    window: WindowSchedule = Fixed(4)
    sharpness: float = 1000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sharpness > 0:
            raise ValueError(f"strategy 'toma': expected sharpness to be above 0, got {self.sharpness}")

    def plan(self, x: Tensor, ctx: LayerContext) -> SoftPlan:
        """Destinations and weights for (B, N, C) tokens, tile by tile."""
        tiles, ratio = windows(ctx, self.window, x.device), self.ratio(ctx)
        down, up, reps = [], [], []
        for group in tiles.groups:
            k = group.shape[1]
            tokens = x[:, group]
            tokens = tokens.to(torch.promote_types(x.dtype, torch.float32))
            similarity = COSINE(tokens, tokens)
            chosen = spread(similarity, k - min(round(ratio * k), k - 1))
            rows = similarity.gather(-2, chosen[..., None].expand(-1, -1, -1, k))
            weights = (self.sharpness * rows).softmax(-2).to(x.dtype)
            up.append(weights.mT)
            down.append(weights / weights.sum(-1, keepdim=True))
            reps.append(pick(group.expand(len(x), -1, -1), chosen).flatten(1))
        return SoftPlan(tuple(down), tuple(up), torch.cat(reps, 1), tiles)


def spread(similarity: Tensor, count: int) -> Tensor:
    """Choose tokens so that every token is similar to one of them, by greedy search: (..., k, k) to (..., count) in order."""
    nearest = torch.full_like(similarity[..., 0, :], -torch.inf)
    chosen = torch.zeros_like(nearest, dtype=torch.bool)
    behind = TIE * torch.arange(similarity.shape[-1], dtype=similarity.dtype, device=similarity.device)
    gain = similarity.sum(-2)
    for i in range(count):
        index = (gain - behind).masked_fill(chosen, -torch.inf).argmax(-1, keepdim=True)
        chosen = chosen.scatter(-1, index, True)
        if i + 1 < count:
            column = similarity.gather(-1, index[..., None, :].expand(*similarity.shape[:-1], 1)).squeeze(-1)
            nearest = nearest.maximum(column)
            gain = (similarity - nearest[..., None]).relu().sum(-2)
    return chosen.to(torch.uint8).sort(dim=-1, descending=True, stable=True).indices[..., :count]
