"""SDTM: whole windows collapse while structure forms; later single tokens merge, in the feed-forward layers alone."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mergekit_diff.components import LayerContext, MergeStrategy, RatioSchedule, WindowSchedule
from mergekit_diff.plan import MergePlan, pick, top
from mergekit_diff.registry import one_of, register
from mergekit_diff.schedules import Fixed
from mergekit_diff.similarity import Dot
from mergekit_diff.windows import windows

from .matching import apart, directions, highest, nearest, rows

COSINE = Dot()  # of directions; made here, since torch.compile cannot trace the making of a part
PHASES = ("auto", "structure", "detail", "whole")


@register("structure-then-detail")
@dataclass(frozen=True)
class StructureThenDetail(RatioSchedule):
    """A quarter of a cosine, ``mean - deviation + 2 * deviation * cos(progress * pi / 2)``: SDTM's, arXiv 2505.11707."""

    mean: float = 0.5
    deviation: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.deviation <= self.mean < 1 - self.deviation:
            raise ValueError(f"expected 0 <= deviation <= mean < 1 - deviation, got {self.mean} and {self.deviation}")

    def __call__(self, ctx: LayerContext) -> float:
        """From ``mean + deviation`` at the first timestep to ``mean - deviation`` at the last."""
        return self.mean - self.deviation + 2 * self.deviation * math.cos(ctx.progress * math.pi / 2)


@register("sdtm")
@dataclass(frozen=True)
class SDTM(MergeStrategy):
    """Collapse windows first, match tokens later, and blend in the last output. SDTM, Fang et al. (2025), arXiv 2505.11707.

    Structure: the windows of largest ``mean cosine of two tokens - weight * mean age / mean age of the grid`` become one token
    each, the mean of all, in a random token's place; border windows stay. Detail: the oldest token of every window is a
    destination, a random one of several; the r other tokens most similar to one merge into it, in feed-forward layers alone.
    A token's age is the number of steps since it was last alone in its group. Of what layers return for tokens that share a
    group, ``keep`` is the last step's. At every third step after the first nothing merges, so that all tokens are their own
    again.

    The authors' code adds the age to the score; minus is taken here, since the age is to let long merged tokens go, as the
    detail phase does. At the first step there is neither age nor last output: ages are 0, and nothing is blended in.
    Time grows with N in the structure phase and with N squared in the detail phase; memory with N.

    Args:
        ratio: share of all tokens that is merged away; at most 3/4 for 2x2.
        window: what collapses, and what has one destination.
        weight: of the age.
        keep: share of the last output, in [0, 1].
        switch: progress of the denoising at which the detail phase begins.
        whole_every: at multiples of this, but for step 0, nothing merges; 0 is never.
        phase: "auto" follows ``switch`` and ``whole_every``; "structure", "detail" and "whole" stay in one phase.
    """

    roles = ("self_attention", "feed_forward")
    needs = ("output", "age")

    ratio: RatioSchedule = StructureThenDetail()
    window: WindowSchedule = Fixed(2)
    weight: float = 0.05
    keep: float = 0.8
    switch: float = 0.4
    whole_every: int = 3
    phase: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.phase, PHASES, "phase")
        if not 0 <= self.keep <= 1:
            raise ValueError(f"strategy 'sdtm': expected keep in [0, 1], got {self.keep}")
        if self.whole_every < 0:
            raise ValueError(f"strategy 'sdtm': expected whole_every to be at least 0, got {self.whole_every}")

    def asks(self) -> tuple[str, ...]:
        """Outputs only where they are kept."""
        return self.needs if self.keep else ("age",)

    def at(self, ctx: LayerContext) -> "SDTM":
        """The same, in the phase of this step."""
        if self.phase != "auto":
            return self
        if self.whole_every and ctx.step and ctx.step % self.whole_every == 0:
            return replace(self, phase="whole")
        return replace(self, phase="structure" if ctx.progress < self.switch else "detail")

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan | None:
        """The plan of the current phase for (B, N, C) tokens."""
        phase, age = self.at(ctx).phase, ctx.signals.get("age")
        if phase == "whole":
            return None
        age = x.new_zeros(x.shape[:2], dtype=torch.float32) if age is None else age
        return (self._structure if phase == "structure" else self._detail)(directions(x), age, ctx)

    def _structure(self, unit: Tensor, age: Tensor, ctx: LayerContext) -> MergePlan:
        batch, n, _ = unit.shape
        groups = windows(ctx, self.window, unit.device).groups
        k = max(group.shape[1] for group in groups)
        whole = torch.cat([group for group in groups if group.shape[1] == k])
        count = 0 if k == 1 else min(int(n * self.ratio(ctx)) // (k - 1), len(whole))
        tokens = unit[:, whole]
        total = tokens.sum(2).square().sum(-1) - tokens.square().sum((2, 3))
        older = age / age.mean(-1, keepdim=True).clamp_min(1e-6)
        collapses = top(total / max(1, k * (k - 1)) - self.weight * older[:, whole].mean(-1), count)
        place = pick(whole, ctx.noise[whole].argmax(-1, keepdim=True))
        target = torch.arange(n, device=unit.device).repeat(batch, 1)
        target[:, whole.flatten()] = torch.where(collapses[..., None], place, whole).flatten(1)
        return MergePlan.from_target(target, n - count * (k - 1), keep=self.keep)

    def _detail(self, unit: Tensor, age: Tensor, ctx: LayerContext) -> MergePlan:
        n = unit.shape[1]
        chosen = highest(age + ctx.noise, windows(ctx, self.window, unit.device))  # ages are whole numbers, noise is below 1
        destinations, sources = apart(chosen, n)
        count = min(int(n * self.ratio(ctx)), sources.shape[1])
        target = torch.arange(n, device=unit.device).repeat(len(unit), 1)
        if count:
            score, index = nearest(rows(unit, sources), rows(unit, destinations), COSINE)
            target.scatter_(1, sources, torch.where(top(score, count), pick(destinations, index), sources))
        return MergePlan.from_target(target, n - count, keep=self.keep, roles=("feed_forward",))
