"""The common part of strategies that drop tokens instead of merging them, as caches of language models do."""

import torch
from torch import Tensor

from mergekit_diff.plan import MergePlan
from mergekit_diff.reductions import Pick


def evicted(n: int, kept: Tensor) -> MergePlan:
    """The plan in which all of n tokens but the kept ones are dropped.

    A plan is a partition, so every dropped token is in the group of the last kept one before it, or of the first one, which
    stands for its group alone.

    Args:
        n: number of tokens.
        kept: (B, M) their positions, in rising order, at least one.

    >>> evicted(5, torch.tensor([[1, 3]])).assign
    tensor([[0, 0, 0, 1, 1]])
    """
    tokens = torch.arange(n, device=kept.device).expand(len(kept), -1).contiguous()
    group = torch.searchsorted(kept.contiguous(), tokens, right=True) - 1
    return MergePlan(group.clamp(min=0), kept, reduction=Pick())
