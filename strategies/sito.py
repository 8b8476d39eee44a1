"""SiTo: prune tokens that resemble a base token, and copy back from the most similar one that is left."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mergekit_diff.components import LayerContext, MergeStrategy, RatioSchedule, WindowSchedule
from mergekit_diff.plan import MergePlan, pick
from mergekit_diff.reductions import Pick
from mergekit_diff.registry import register
from mergekit_diff.schedules import Constant, Fixed
from mergekit_diff.similarity import Dot
from mergekit_diff.windows import windows

from .matching import apart, directions, highest, joined, nearest, rows

PICK, COSINE = Pick(), Dot()  # of directions; made here, since torch.compile cannot trace the making of a part


@register("sito")
@dataclass(frozen=True)
class SiTo(MergeStrategy):
    """Prune the tokens most similar to a base token; copy each from a kept one. SiTo, Zhang et al. (2025), AAAI 39(9).

    With cosines S_ij and normal noise z_i, ``score_i = sum_j S_ij + noise * z_i``. The base token of every window is that of the
    highest score. Of all other tokens the r with the largest ``max_b S_ib`` over the base tokens b are pruned, and each takes
    the output of the kept token, base or not, that is most similar to it: nothing is averaged. DaTo (arXiv
    2501.00375) prunes as this does, with other scores.
    Time grows with N squared; memory does not. The noise is the same for every row of a batch.

    Args:
        ratio: share of all tokens that is pruned; at most 3/4 for 2x2.
        stride: the windows that have one base token each.
        noise: standard deviation of what is added to the scores, at least 0.
    """

    ratio: RatioSchedule = Constant(0.5)
    stride: WindowSchedule = Fixed(2)
    noise: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise < 0:
            raise ValueError(f"expected noise to be at least 0, got {self.noise}")

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan:
        """Pruned tokens and where each is copied from, for (B, N, C) tokens."""
        unit = directions(x)
        score = (unit @ unit.sum(1)[..., None]).squeeze(-1) + self.noise * normal(ctx.noise)
        return pruned(unit, highest(score, windows(ctx, self.stride, x.device)), self.ratio(ctx))


def pruned(unit: Tensor, base: Tensor, ratio: float) -> MergePlan:
    """Prune the tokens most similar to a base token, and copy each from the most similar one that is kept.

    Args:
        unit: (B, N, C) tokens of length one.
        base: (B, W) tokens that are kept.
        ratio: share of all tokens that is pruned, at most all others.
    """
    n = unit.shape[1]
    base, others = apart(base, n)
    count = min(int(n * ratio), others.shape[1])
    if not count:
        return joined(n, others, others, 0, PICK)
    likeness, _ = nearest(rows(unit, others), rows(unit, base), COSINE)
    gone, kept = apart(pick(others, likeness.topk(count).indices), n)
    _, index = nearest(rows(unit, gone), rows(unit, kept), COSINE)
    return joined(n, gone, pick(kept, index), count, PICK)


def normal(uniform: Tensor) -> Tensor:
    """Normal numbers from those of [0, 1)."""
    return torch.special.ndtri(uniform.clamp(1e-6, 1 - 1e-6))
