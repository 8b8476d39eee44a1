"""ReToM's formula: in each window, the tokens most similar to its representative merge into it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mergekit_diff.components import LayerContext, MergeStrategy, RatioSchedule, SimilarityMetric, WindowSchedule
from mergekit_diff.plan import MergePlan, pick, top
from mergekit_diff.ready import through_batch
from mergekit_diff.reductions import Mean, Pick, Reduction
from mergekit_diff.registry import one_of
from mergekit_diff.schedules import ByStage, Constant
from mergekit_diff.similarity import Cosine
from mergekit_diff.windows import Windows, windows

REPRESENTATIVES = ("highest", "upper-half", "random", "lowest")
CHOICES = {"rank": ("window", "grid"), "draw": ("anew", "still"), "tokens": ("block", "normalized")}


@dataclass(frozen=True, eq=False)
class WindowPlan(MergePlan):
    """A plan that also says where the representative of each window is, also of a window in which nothing merges.

    Args:
        positions: (B, W) int64, the representative's position in each of the W windows, in the order of their groups.
    """

    positions: Tensor | None = None


@dataclass(frozen=True)
class MergingInWindows(MergeStrategy):
    """The common part of ``retom`` and ``random-dest``: all of the formula but the choice of the representatives.

    Args:
        ratio: share of every window that is merged away; with ``rank="grid"``, share of the grid.
        window: small in down and up blocks, large in the middle.
        metric: how similar two tokens are.
        alpha: weight of the representative in the merged token, in [0, 1]; None is the plain mean of all of the group.
        reduction: how a representative and its sources become one.
        rank: "window": of the k tokens of each window, the ``min(round(ratio * k), k - 1)`` most similar to its representative
            merge; "grid": of all N tokens in W windows, the ``min(round(ratio * N), N - W)`` most similar to the
            representative of their own window.
        draw: random choices are drawn "anew" at every step, or are "still": the same at every step.
        tokens: what is compared, the input of the "block", or the "normalized" one that its attention sees.
        keep_representatives: a window's representative is used for this many steps, while its sources are chosen whenever a plan
            is made. ``refresh`` keeps the whole plan: with ``refresh=1, keep_representatives=20`` every step has its own sources
            for representatives that change every 20 steps; a number up to ``refresh`` changes nothing.
    """

    needs = ("last_plan", "normalized")

    ratio: RatioSchedule = Constant(0.5)
    window: WindowSchedule = ByStage()
    metric: SimilarityMetric = Cosine()
    alpha: float | None = None
    reduction: Reduction = Mean()
    rank: str = "window"
    draw: str = "anew"
    tokens: str = "block"
    keep_representatives: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for setting, possible in CHOICES.items():
            one_of(getattr(self, setting), possible, setting)
        if self.keep_representatives < 1:
            raise ValueError(f"expected keep_representatives to be at least 1 step, got {self.keep_representatives}")
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise ValueError(f"expected alpha in [0, 1] or null, got {self.alpha}")
        if self.alpha is not None and isinstance(self.reduction, Pick):
            raise ValueError("expected alpha to be null with reduction 'pick', which keeps the representative alone")

    def asks(self) -> tuple[str, ...]:
        """The last plan to keep representatives, the normalized tokens to compare them; by default neither."""
        wanted = {"last_plan": self.keep_representatives > 1, "normalized": self.tokens == "normalized"}
        return tuple(word for word, is_wanted in wanted.items() if is_wanted)

    @property
    def memory(self) -> int:
        """``keep_representatives``."""
        return self.keep_representatives

    def merge(self, x: Tensor, ctx: LayerContext, representative: str) -> MergePlan:
        """The plan for (B, N, C) tokens; ``representative`` is one of ``REPRESENTATIVES``."""
        compared = ctx.signals["normalized"] if self.tokens == "normalized" else x
        draw = ctx.still if self.draw == "still" else ctx.noise
        parts = windows(ctx, self.window, x.device)
        counts = self._counts(parts, self.ratio(ctx))
        batch, n, channels = x.shape
        if not any(counts) and self.keep_representatives == 1:
            return MergePlan.from_target(torch.arange(n, device=x.device)[None], n, reduction=self.reduction)
        rows = compared.reshape(-1, channels)
        indices = [group.expand(batch, -1, -1) for group in parts.groups]
        positions, similarities = [], []
        for group, known in zip(indices, self._known(ctx, parts), strict=True):
            tokens = rows.index_select(0, through_batch(group.flatten(1), n)).view(*group.shape, channels)
            if known is None:
                position, similarity = choose(representative, tokens, self.metric, draw[group[0]])
            else:
                position, similarity = known, similarity_to(known, tokens, self.metric)
            positions.append(position)
            similarities.append(similarity.masked_fill(_at(position, similarity), -torch.inf))
        sources = self._sources(similarities, counts)
        chosen = list(zip(indices, positions, sources, strict=True))
        target = parts.join([torch.where(merged, pick(group, position), group) for group, position, merged in chosen])
        weight = None if self.alpha is None else parts.join([_weights(self.alpha, p, merged) for _, p, merged in chosen])
        kept = n - sum(counts if self.rank == "grid" else (r * len(g) for r, g in zip(counts, parts.groups, strict=True)))
        plan = MergePlan.from_target(target, kept, weight, self.reduction)
        if self.keep_representatives == 1:
            return plan
        positions_of = torch.cat(positions, 1).squeeze(-1)
        return WindowPlan(plan.assign, plan.rep, plan.weight, plan.reduction, positions=positions_of)

    def _counts(self, parts: Windows, ratio: float) -> list[int]:
        """How many tokens merge: in each window, for each group of windows; or over the whole grid."""
        if self.rank == "window":
            sizes = (group.shape[1] for group in parts.groups)
            return [min(round(ratio * k), k - 1) for k in sizes]
        n = len(parts.back)
        return [min(round(ratio * n), n - sum(map(len, parts.groups)))]

    def _sources(self, similarities: list[Tensor], counts: list[int]) -> list[Tensor]:
        """Masks (B, W, k) of the tokens that merge, for each group of windows."""
        if self.rank == "window":
            return [top(similarity, r) for similarity, r in zip(similarities, counts, strict=True)]
        (r,) = counts
        best = top(torch.cat([s.flatten(1) for s in similarities], 1), r)
        masks = best.split([s[0].numel() for s in similarities], 1)
        return [mask.view_as(s) for mask, s in zip(masks, similarities, strict=True)]

    def _known(self, ctx: LayerContext, parts: Windows) -> list[Tensor | None]:
        """For each group of windows, the positions (B, W, 1) of the last plan; None where there is none."""
        last = ctx.signals.get("last_plan")
        if not isinstance(last, WindowPlan) or last.positions is None:
            return [None] * len(parts.groups)
        return list(last.positions[..., None].split([len(group) for group in parts.groups], 1))


def choose(representative: str, tokens: Tensor, metric: SimilarityMetric, draw: Tensor) -> tuple[Tensor, Tensor]:
    """Choose one token of each window.

    Args:
        representative: by mean similarity to the others of its window, the "highest", the "lowest", or a random one of the
            "upper-half", the ceil(k / 2) highest; or a "random" one of all, which is the same in every row of the batch.
        tokens: (B, W, k, C) of W windows.
        metric: how similar two tokens are.
        draw: (W, k) uniform in [0, 1); of the tokens to choose from, the one with the largest is the random one.

    Returns:
        Its position (B, W, 1), and the similarity (B, W, k) of every token to it.
    """
    if representative == "random":
        position = draw.argmax(-1, keepdim=True).expand(len(tokens), -1, -1)
        return position, similarity_to(position, tokens, metric)
    similarity = metric(tokens, tokens)
    score = similarity.sum(-1) - similarity.diagonal(dim1=-2, dim2=-1)
    if representative == "lowest":
        score = -score
    elif representative == "upper-half":
        score = torch.where(top(score, (score.shape[-1] + 1) // 2), draw, -1.0)
    position = score.argmax(-1, keepdim=True)
    return position, pick(similarity, position[..., None, :]).squeeze(-1)


def similarity_to(position: Tensor, tokens: Tensor, metric: SimilarityMetric) -> Tensor:
    """Similarity (B, W, k) of every token (B, W, k, C) to the one at a position (B, W, 1) of its window."""
    *where, k, channels = tokens.shape
    one = tokens.reshape(-1, channels).index_select(0, through_batch(position.reshape(-1, 1), k))
    return metric(tokens, one.view(*where, 1, channels)).squeeze(-1)


def _at(position: Tensor, values: Tensor) -> Tensor:
    """Mask of the shape of ``values`` (B, W, k) with the position (B, W, 1) set."""
    return torch.arange(values.shape[-1], device=values.device) == position


def _weights(alpha: float, position: Tensor, sources: Tensor) -> Tensor:
    """(B, W, k) weights: ``alpha`` for a representative that has sources, the rest for these, and 1 for all others."""
    count = sources.sum(-1, keepdim=True)
    is_rep = _at(position, sources) & (count > 0)
    return torch.where(sources, (1 - alpha) / count, torch.where(is_rep, alpha, 1.0))
