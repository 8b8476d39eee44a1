"""CA-ToMe: as many tokens merge as are alike."""

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mergekit_diff.components import LayerContext, MergeStrategy, RatioSchedule, SimilarityMetric, WindowSchedule
from mergekit_diff.plan import MergePlan, Plan, pick, top
from mergekit_diff.reductions import Mean, Reduction
from mergekit_diff.registry import register
from mergekit_diff.schedules import Constant, Fixed
from mergekit_diff.similarity import Cosine
from mergekit_diff.windows import windows

from .matching import apart, highest, joined, nearest, rows


class Arriving:
    """A number on its way to the host: reading it waits for its own copy, begun with the plan, and for nothing behind it."""

    def __init__(self, number: Tensor) -> None:
        self._copy = torch.empty(number.shape, dtype=number.dtype, pin_memory=number.is_cuda)
        self._copy.copy_(number, non_blocking=True)
        self._copied = torch.cuda.Event() if number.is_cuda else None
        if self._copied is not None:
            self._copied.record()

    def __int__(self) -> int:
        if self._copied is not None:
            self._copied.synchronize()
        return int(self._copy.numpy())


@dataclass(frozen=True, eq=False)
class CountedPlan(MergePlan):
    """A plan that knows how many sources were alike enough to merge.

    Args:
        alike: the largest such number of any row; None where tensors have no values.
    """

    alike: Arriving | Tensor | None = None


@register("ca-tome")
@dataclass(frozen=True)
class CAToMe(MergeStrategy):
    """Match as ``tomesd``; as many merge as were alike at the last plan. CA-ToMe, Saghatchian et al. (2025), arXiv 2501.00946.

    The paper merges every source whose similarity to its nearest destination reaches the threshold, as many in every row of a
    batch as in the one that has most. That number decides shapes, so reading it would make the host wait for the device. Here it
    comes from the plan before, whose scores have long arrived; the first plan of an image uses ``ratio``. The paper also
    lists the steps at which plans are made: pass them as ``refresh`` of ``merging``. Time grows with N squared.

    Args:
        ratio: share of all tokens that the first plan of an image merges away.
        stride: the windows that have one random destination each.
        metric: how similar two tokens are.
        threshold: sources at least as similar as this to their destination are alike; in [-1, 1].
        quantum: kept tokens are rounded up to a multiple of this, so that few shapes occur.
        reduction: how a destination and its sources become one.
    """

    needs = ("last_plan",)
    levels = 1

    ratio: RatioSchedule = Constant(0.5)
    stride: WindowSchedule = Fixed(2)
    metric: SimilarityMetric = Cosine()
    threshold: float = 0.7
    quantum: int = 64
    reduction: Reduction = Mean()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -1 <= self.threshold <= 1:
            raise ValueError(f"expected threshold in [-1, 1], got {self.threshold}")
        if self.quantum < 1:
            raise ValueError(f"expected quantum to be at least 1, got {self.quantum}")

    @property
    def batch_shared(self) -> bool:
        """True: how many tokens merge depends on the content of the whole batch."""
        return True

    def after(self, last: Plan) -> MergeStrategy:
        """The strategy at the ratio that the scores of the last plan ask for."""
        if not isinstance(last, CountedPlan) or last.alike is None:
            return self
        n = last.num_tokens
        kept = math.ceil((n - int(last.alike)) / self.quantum) * self.quantum
        return dataclasses.replace(self, ratio=Constant((max(n - kept, 0) + 0.5) / n))  # half a token more: int() cuts it off

    def plan(self, x: Tensor, ctx: LayerContext) -> CountedPlan:
        """Matching for (B, N, C) tokens, and the count for the next plan."""
        n, chosen = x.shape[1], highest(ctx.noise[None], windows(ctx, self.stride, x.device))
        destinations, sources = (part.expand(len(x), -1) for part in apart(chosen, n))
        count = min(int(n * self.ratio(ctx)), sources.shape[1])
        score, index = nearest(rows(x, sources), rows(x, destinations), self.metric)
        plan = joined(n, sources, torch.where(top(score, count), pick(destinations, index), sources), count, self.reduction)
        return CountedPlan(plan.assign, plan.rep, plan.weight, plan.reduction, alike=self._alike(score))

    def _alike(self, score: Tensor) -> Arriving | Tensor | None:
        if score.is_meta:
            return None
        alike = (score >= self.threshold).sum(-1).amax()
        return alike if torch.compiler.is_compiling() else Arriving(alike)
