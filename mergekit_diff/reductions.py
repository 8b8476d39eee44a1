"""Reductions: how the tokens of a group become one, (B, N, C) to (B, M, C).

>>> from mergekit_diff import MergePlan
>>> x = torch.tensor([[[3.0, 4.0], [0.0, 1.0], [1.0, 0.0]]])
>>> for reduction in (Mean(), Pick(), Mlerp()):
...     print(MergePlan.from_target(torch.tensor([[0, 0, 2]]), 2, reduction=reduction).merge(x)[0, 0])
tensor([1.5000, 2.5000])
tensor([3., 4.])
tensor([2.5725, 4.2875])
"""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from .ready import ReadyPlan
from .registry import Part, register


class Reduction(Part):
    """How the tokens of a group become one."""

    kind = "reduction"

    @abstractmethod
    def __call__(self, x: Tensor, plan: ReadyPlan) -> Tensor:
        """(B, N, C) tokens to (B, M, C), by the groups of ``plan``: its ``mean``, ``largest`` and ``select``."""


@register("mean")
@dataclass(frozen=True)
class Mean(Reduction):
    """The mean of the group, by the plan's weights if it has any."""

    def __call__(self, x: Tensor, plan: ReadyPlan) -> Tensor:
        """``sum_i w_i x_i``, where ``w_i`` is 1 / (size of the group) unless the plan says otherwise."""
        return plan.mean(x)


@register("pick")
@dataclass(frozen=True)
class Pick(Reduction):
    """The representative alone: the other tokens of the group are dropped, and so are the plan's weights."""

    def __call__(self, x: Tensor, plan: ReadyPlan) -> Tensor:
        """The representative's own row, to the bit."""
        return plan.select(x)


@register("mlerp")
@dataclass(frozen=True)
class Mlerp(Reduction):
    """The mean, scaled to the largest norm of the group. MLERP, Token Fusion, Kim et al. (2024), arXiv 2312.01026.

    Averaging shrinks tokens that point different ways; scaling keeps the norm that later layers expect.
    """

    def __call__(self, x: Tensor, plan: ReadyPlan) -> Tensor:
        """``mean * max_i |x_i| / |mean|``, the destination among the ``x_i``; zero where the mean is zero."""
        mean = plan.mean(x)
        longest, length = plan.largest(_norm(x)), _norm(mean)
        zero = length == 0
        unit = mean / length.masked_fill(zero, 1.0)  # first the direction: longest / length may overflow
        return (unit * longest.masked_fill(zero, 0.0)).to(x.dtype)  # so may longest, and 0 * inf is not a number


def _norm(x: Tensor) -> Tensor:
    """(..., C) to (..., 1), in at least float32: squares of half precision overflow."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
