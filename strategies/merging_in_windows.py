"""ReToM's formula: in each window, the tokens most similar to one of them merge into it."""

from collections.abc import Callable

import torch
from torch import Tensor

from mergekit_diff.components import LayerContext, RatioSchedule, WindowSchedule
from mergekit_diff.plan import MergePlan, pick, top
from mergekit_diff.ready import through_batch
from mergekit_diff.reductions import Pick, Reduction
from mergekit_diff.windows import windows

Choose = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def merge_in_windows(
    x: Tensor,
    ctx: LayerContext,
    window: WindowSchedule,
    ratio: RatioSchedule,
    alpha: float | None,
    reduction: Reduction,
    choose: Choose,
) -> MergePlan:
    """In each window, merge the ``r_w = min(round(ratio * k_w), k_w - 1)`` tokens most similar to one of them into it.

    Args:
        x: (B, N, C) tokens.
        ctx: where and when.
        window: gives the windows; k_w is the size of each, smaller at the border.
        ratio: share of every window that is merged away.
        alpha: the merged token is ``alpha * D + (1 - alpha) * mean(S)``; None is the plain mean of D and S.
        reduction: how a window's sources and D become one.
        choose: takes the tokens of windows (B, W, k, C) and their indices (B, W, k); returns the position (B, W, 1) of each
            window's representative D, and the similarity (B, W, k) of every token to it.
    """
    asked = ratio(ctx)
    parts = windows(ctx, window, x.device)
    rows = x.reshape(-1, x.shape[-1])
    targets, weights, kept = [], [], 0
    for indices in parts.groups:
        count, k = indices.shape
        r = min(round(asked * k), k - 1)
        kept += count * (k - r)
        indices = indices.expand(len(x), count, k)
        if r == 0:
            targets.append(indices)
            weights.append(torch.ones_like(indices, dtype=torch.float32))
            continue
        tokens = rows.index_select(0, through_batch(indices.flatten(1), x.shape[1])).view(*indices.shape, -1)
        chosen, similarity = choose(tokens, indices)
        is_rep = torch.arange(k, device=x.device) == chosen
        sources = top(similarity.masked_fill(is_rep, -torch.inf), r)
        targets.append(torch.where(sources, pick(indices, chosen), indices))
        if alpha is not None:
            weights.append(torch.where(sources, (1 - alpha) / r, torch.where(is_rep, alpha, 1.0)))
    weight = None if alpha is None else parts.join(weights)
    return MergePlan.from_target(parts.join(targets), kept, weight, reduction)


def check_alpha(alpha: float | None, reduction: Reduction) -> None:
    """Refuse a weight of the representative that is out of range, or that the reduction would not read.

    Raises:
        ValueError: alpha is neither None nor in [0, 1], or it is set and the reduction is ``pick``.
    """
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"expected alpha in [0, 1] or null, got {alpha}")
    if alpha is not None and isinstance(reduction, Pick):
        raise ValueError("expected alpha to be null with reduction 'pick', which keeps the representative alone")
