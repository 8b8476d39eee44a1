"""ToMeSD: global bipartite matching to one destination a window."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mergekit_diff.components import LayerContext, MergeStrategy, RatioSchedule, SimilarityMetric, WindowSchedule
from mergekit_diff.plan import MergePlan, top
from mergekit_diff.reductions import Mean, Reduction
from mergekit_diff.registry import one_of, register
from mergekit_diff.schedules import Constant, Fixed
from mergekit_diff.similarity import Cosine
from mergekit_diff.windows import windows


@register("tomesd")
@dataclass(frozen=True)
class ToMeSD(MergeStrategy):
    """Match every source with its nearest destination anywhere. Bolya and Hoffman (2023), arXiv 2303.17604.

    One destination in every window of ``stride``; the r sources most similar to their destination merge into it, as a mean.

    Args:
        ratio: share of all tokens that is merged away; at most the share of sources, 3/4 for 2x2.
        stride: the windows that have one destination each; at the border they are smaller.
        metric: how similar two tokens are.
        randomize: whether the destination of a window is random; else it is the first token, the paper's ``use_rand=False``.
        draw: random destinations are drawn "anew" at every step, as in the package, or are "still": the same at every step.
        reduction: how a destination and its sources become one.
    """

    levels = 1

    ratio: RatioSchedule = Constant(0.5)
    stride: WindowSchedule = Fixed(2)
    metric: SimilarityMetric = Cosine()
    randomize: bool = True
    draw: str = "anew"
    reduction: Reduction = Mean()

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.draw, ("anew", "still"), "draw of strategy 'tomesd'")

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan:
        """Matching for (B, N, C) tokens; time and memory grow with N squared."""
        batch, n, _ = x.shape
        destinations = self._destinations(ctx, x.device)
        sources = _others(destinations, n)
        r = min(int(n * self.ratio(ctx)), len(sources))
        score, nearest = self.metric(x.index_select(1, sources), x.index_select(1, destinations)).max(-1)
        target = torch.arange(n, device=x.device).repeat(batch, 1)
        target[:, sources] = torch.where(top(score, r), destinations[nearest], sources)
        return MergePlan.from_target(target, n - r, reduction=self.reduction)

    def _destinations(self, ctx: LayerContext, device: torch.device) -> Tensor:
        """(number of windows,) one token of every window, in rising order."""
        groups, draw = windows(ctx, self.stride, device).groups, ctx.still if self.draw == "still" else ctx.noise
        chosen = [g[torch.arange(len(g)), draw[g].argmax(-1)] if self.randomize else g[:, 0] for g in groups]
        return torch.cat(chosen).sort().values


def _others(tokens: Tensor, n: int) -> Tensor:
    """(n - len(tokens),) the other numbers of 0..n-1 in order; a stable sort, since ``nonzero`` waits for the device."""
    chosen = torch.zeros(n, dtype=torch.uint8, device=tokens.device)
    chosen[tokens] = 1
    return chosen.sort(stable=True).indices[: n - len(tokens)]
