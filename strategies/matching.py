"""The common part of strategies that match sources with destinations: in chunks of rows, never all pairs at once."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mergekit_diff.components import SimilarityMetric
from mergekit_diff.plan import MergePlan, pick, top
from mergekit_diff.ready import through_batch
from mergekit_diff.reductions import Reduction
from mergekit_diff.windows import Windows

ROWS = 1024
"""Sources that are compared with all destinations at a time."""


def matched(
    x: Tensor, sources: Tensor, destinations: Tensor, count: int, metric: SimilarityMetric, reduction: Reduction
) -> MergePlan:
    """Merge the best pairs of a source and its most similar destination.

    Args:
        x: (B, N, C) tokens that are compared.
        sources: (B, S) tokens that may be merged away.
        destinations: (B, D) tokens that they may be merged into, at least one if there are sources.
        count: how many sources merge, at most S.
        metric: how similar two tokens are.
        reduction: how a destination and its sources become one.
    """
    if not count:
        return joined(x.shape[1], sources, sources, 0, reduction)
    score, index = nearest(rows(x, sources), rows(x, destinations), metric)
    target = torch.where(top(score, count), pick(destinations, index), sources)
    return joined(x.shape[1], sources, target, count, reduction)


def joined(n: int, sources: Tensor, targets: Tensor, count: int, reduction: Reduction) -> MergePlan:
    """The plan for n tokens in which (B, S) sources join (B, S) targets, which for all but ``count`` are themselves."""
    target = torch.arange(n, device=sources.device).repeat(len(sources), 1).scatter_(1, sources, targets)
    return MergePlan.from_target(target, n - count, reduction=reduction)


def nearest(a: Tensor, b: Tensor, metric: SimilarityMetric) -> tuple[Tensor, Tensor]:
    """The largest similarity (B, S) of every token of (B, S, C) to one of (B, D, C), and which one that is, (B, S)."""
    best = [metric(part, b).max(-1) for part in a.split(ROWS, 1)]
    return torch.cat([part.values for part in best], 1), torch.cat([part.indices for part in best], 1)


def rows(x: Tensor, index: Tensor) -> Tensor:
    """The tokens of (B, N, C) at (B, n) positions."""
    return x.reshape(-1, x.shape[-1]).index_select(0, through_batch(index, x.shape[1])).view(*index.shape, x.shape[-1])


def apart(chosen: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Of n tokens the (B, D) chosen ones and the (B, n - D) others, both in rising order.

    By a stable sort, since ``nonzero`` waits for the device.
    """
    mask = torch.zeros(len(chosen), n, dtype=torch.uint8, device=chosen.device).scatter_(1, chosen, 1)
    order = mask.sort(dim=-1, descending=True, stable=True).indices
    return order[:, : chosen.shape[1]], order[:, chosen.shape[1] :]


def highest(score: Tensor, parts: Windows) -> Tensor:
    """(B, W) for every window the token with the largest score (B, N), the first one where scores tie."""
    return torch.cat(
        [pick(g.expand(len(score), -1, -1), score[:, g].argmax(-1, keepdim=True)).squeeze(-1) for g in parts.groups], 1
    )


def directions(x: Tensor) -> Tensor:
    """(B, N, C) tokens of length one, in at least float32: their inner products are cosines, and sums of many of them."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
