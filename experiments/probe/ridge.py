"""A ridge classifier in closed form."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

PENALTIES = tuple(10.0**power for power in range(7))


@dataclass(frozen=True)
class Ridge:
    """A linear map from features to a score for every class.

    Args:
        mean: (C) of the features that it was fitted to.
        deviation: (C) of the same.
        weight: (C, K) for K classes.
        bias: (K).
        penalty: on the squares of the weights, beside the sum of squared errors.
    """

    mean: Tensor
    deviation: Tensor
    weight: Tensor
    bias: Tensor
    penalty: float

    def __call__(self, x: Tensor) -> Tensor:
        """(n, C) features to the (n) classes with the highest scores."""
        return ((x.double() - self.mean) / self.deviation @ self.weight + self.bias).argmax(1)


def fit_ridge(x: Tensor, labels: Tensor, penalties: tuple[float, ...] = PENALTIES) -> Ridge:
    """Regress one-hot labels on features that have mean 0 and deviation 1.

    With z = U S V^T the weights are V S / (S^2 + penalty) U^T t. The penalty is the one with the least squared error on
    images that are left out one at a time, Allen (1974), which the leverages give without fitting again; no test image is
    looked at.

    Args:
        x: (n, C) features.
        labels: (n) int64 classes, from 0.
        penalties: to choose from, all above 0.
    """
    x, targets = x.double(), F.one_hot(labels).double()
    mean, deviation, bias = x.mean(0), x.std(0, correction=0), targets.mean(0)
    deviation = torch.where(deviation > 0, deviation, 1.0)
    u, s, v = torch.linalg.svd((x - mean) / deviation, full_matrices=False)
    projected = u.T @ (targets - bias)

    def left_out_error(penalty: float) -> float:
        shrunk = s**2 / (s**2 + penalty)
        errors = targets - bias - u @ (shrunk[:, None] * projected)
        leverages = u**2 @ shrunk + 1 / len(x)
        return float((errors / (1 - leverages)[:, None]).square().mean())

    penalty = min(penalties, key=left_out_error)
    return Ridge(mean, deviation, v.T @ ((s / (s**2 + penalty))[:, None] * projected), bias, penalty)
