"""ImToMe: destinations among the tokens that guidance changes most."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mergekit_diff.components import LayerContext, MergeStrategy, RatioSchedule, WindowSchedule
from mergekit_diff.plan import MergePlan, pick, top
from mergekit_diff.reductions import Mean, Pick
from mergekit_diff.registry import one_of, register
from mergekit_diff.schedules import Constant, Fixed
from mergekit_diff.similarity import Dot
from mergekit_diff.windows import windows

from .matching import apart, directions, highest, joined, nearest, rows

MEAN, PICK, COSINE = Mean(), Pick(), Dot()  # of directions; made here, since torch.compile cannot trace the making of a part
PHASES = ("auto", "pruning", "merging")


@register("imtome")
@dataclass(frozen=True)
class ImToMe(MergeStrategy):
    """Keep apart the tokens that guidance changes most. ImToMe, Wu et al. (2025), arXiv 2411.16720.

    With h the mean over channels of ``|e_text - e_uncond|`` at the last step, the pool is the ``M = min(N, pool * (N - r))``
    tokens of largest h, and a quarter of N random tokens of it are the destinations. All tokens outside the pool merge into
    the destination most similar to them, then those of the pool with the largest cosine to one, r in all, as a mean.

    In the phase "pruning", and wherever there is no guidance difference (at the first step, without guidance, and in models
    whose guidance is an input), destinations are one random token of each window, and h plays no part, as in ``tomesd``.

    Args:
        ratio: share of all tokens that is merged away; at most 3/4.
        pool: size of the pool, as a multiple of the kept tokens, at least 1; 1.4 for U-Nets, 1.0 for PixArt.
        stride: the windows that have one random destination each where h is not used.
        merge_from: the step at which averaging begins; until then a destination stands for its group. 2, and 4 for PixArt.
        phase: "auto" follows ``merge_from``; "pruning" and "merging" stay in one of the two.
    """

    needs = ("prediction",)
    share = ("cfg",)

    ratio: RatioSchedule = Constant(0.7)
    pool: float = 1.4
    stride: WindowSchedule = Fixed(2)
    merge_from: int = 2
    phase: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.phase, PHASES, "phase")
        if self.pool < 1 or self.merge_from < 0:
            raise ValueError(f"strategy 'imtome': expected pool >= 1 and merge_from >= 0, got {self.pool}, {self.merge_from}")

    def at(self, ctx: LayerContext) -> "ImToMe":
        """The same, in the phase of this step."""
        return self if self.phase != "auto" else replace(self, phase="pruning" if ctx.step < self.merge_from else "merging")

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan:
        """Matching for (B, N, C) tokens; time grows with N squared, memory does not."""
        (batch, n, _), r = x.shape, int(x.shape[1] * self.ratio(ctx))
        prediction, phase = ctx.signals.get("prediction"), self.at(ctx).phase
        h = None if prediction is None or phase == "pruning" else prediction.guidance
        if h is None:
            protected = torch.ones(batch, n, dtype=torch.bool, device=x.device)
            chosen = highest(ctx.noise.expand(batch, -1), windows(ctx, self.stride, x.device))
        else:
            count = max(1, n // 4)
            protected = top(h, min(n, max(count, int(self.pool * (n - r)))))
            chosen = torch.where(protected, ctx.noise, -1.0).topk(count).indices
        destinations, sources = apart(chosen, n)
        r, reduction = min(r, sources.shape[1]), PICK if phase == "pruning" else MEAN
        if not r:
            return joined(n, sources, sources, 0, reduction)
        unit = directions(x)
        score, index = nearest(rows(unit, sources), rows(unit, destinations), COSINE)
        merged = top(score.masked_fill(~pick(protected, sources), torch.inf), r)
        return joined(n, sources, torch.where(merged, pick(destinations, index), sources), r, reduction)
