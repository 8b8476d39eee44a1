"""DaTo: prune as SiTo, with base tokens where the denoiser's prediction changes most, or least."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mergekit_diff.components import LayerContext, MergeStrategy, RatioSchedule, WindowSchedule
from mergekit_diff.plan import MergePlan
from mergekit_diff.registry import register
from mergekit_diff.schedules import Constant, Fixed
from mergekit_diff.windows import windows

from .matching import directions, highest
from .sito import normal, pruned


@register("dato")
@dataclass(frozen=True)
class DaTo(MergeStrategy):
    """Prune as `sito`, around tokens whose prediction changes most or least. DaTo, Zhang et al. (2025), arXiv 2501.00375.

    With ``e`` the last and the last but one prediction, ``score_i = +-weight * mean_c |e_ic - e'_ic| + noise * z_i``, z normal:
    the base token of every window is that of the highest score. The sign is drawn for every plan, so that both dynamic and
    static tokens become bases; it is minus where ``ctx.noise[0]`` is below 1/2. In the first two steps, where there is no change
    yet, bases are random.
    The paper also caches features over steps and searches a ratio for every step; this is its pruning alone. Time
    grows with N squared; memory does not.

    Args:
        ratio: share of all tokens that is pruned; at most 3/4 for 2x2. The paper's search stays between 0.3 and 0.7.
        stride: the windows that have one base token each.
        weight: of the change.
        noise: standard deviation of what is added to the scores, at least 0.
    """

    needs = ("prediction",)
    share = ("cfg",)

    ratio: RatioSchedule = Constant(0.5)
    stride: WindowSchedule = Fixed(2)
    weight: float = 1.0
    noise: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise < 0:
            raise ValueError(f"strategy 'dato': expected noise to be at least 0, got {self.noise}")

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan:
        """Pruned tokens and where each is copied from, for (B, N, C) tokens."""
        score = (self.noise * normal(ctx.noise)).expand(len(x), -1)
        prediction = ctx.signals.get("prediction")
        if prediction is not None and prediction.change is not None:
            score = score + torch.where(ctx.noise[0] < 0.5, -self.weight, self.weight) * prediction.change
        return pruned(directions(x), highest(score, windows(ctx, self.stride, x.device)), self.ratio(ctx))
