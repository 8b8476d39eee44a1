"""Distances between a set of images or videos and real images, always with their number and the floor.

The frames of a video are images that are not independent: videos are resampled, not frames, and no two frames of one video make a
pair.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from einops import reduce
from torch import Tensor

from . import feature

LEAST = 4  # images or videos of a set: halves of the smallest reference must have a variance
SPLITS = 20  # of the reference into halves
WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"  # what torch-fidelity 0.3 and 0.4 read


def kid(images: Tensor, reference: Tensor) -> dict[str, Any]:
    """Kernel distance of two sets, as :func:`.set_values` takes them, on EfficientNet-Lite0 features.

    The squared maximum mean discrepancy under the kernel (x.y / d + 1)^3, over all pairs and unbiased, so it may be
    below 0; the kernel of two videos is the mean over their frames. Binkowski et al. (2018), arXiv 1801.01401; theirs are
    Inception features, so the numbers are not comparable.
    """
    x, y = (_features("kid", each) for each in (images, reference))
    kernels = _kernel(x, x), _kernel(x, y), _kernel(y, y)
    resamples = _draws(len(x), 1000)
    counts = torch.stack([torch.bincount(row, minlength=len(x)) for row in resamples]).double()
    return _record(_discrepancy(*kernels), _discrepancy(*kernels, counts), x, y, mmd)


def fid(images: Tensor, reference: Tensor) -> dict[str, Any]:
    """Frechet Inception distance of two sets, as :func:`.set_values` takes them. Heusel et al. (2017), arXiv 1706.08500.

    Biased upwards, the more so the fewer images: compare only sets of the same size.
    """
    x, y = (_features("fid", each) for each in (images, reference))
    real = y.flatten(0, 1)
    resampled = torch.tensor([frechet(x[row].flatten(0, 1), real) for row in _draws(len(x), 100)])
    return _record(torch.tensor([frechet(x.flatten(0, 1), real)]), resampled, x, y, frechet)


def mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of (n, d) and (m, d) features under the cubic kernel."""
    x, y = x[:, None], y[:, None]
    return float(_discrepancy(_kernel(x, x), _kernel(x, y), _kernel(y, y)))


def frechet(x: Tensor, y: Tensor) -> float:
    """Frechet distance of the normal distributions that have the mean and covariance of (n, d) and (m, d) features.

    The trace of the root of a product of two covariances A'A and B'B is the sum of the singular values of AB'.
    """
    a, b = _root(x), _root(y)
    means = (x.mean(0) - y.mean(0)).square().sum()
    return float(means + a.square().sum() + b.square().sum() - 2 * torch.linalg.svdvals(a @ b.T).sum())


def extract(name: str, images: Tensor) -> Tensor:
    """(n, 3, H, W) uint8 images or frames to (n, d) features of the network of "kid" or "fid"."""
    if name == "kid":
        return feature.features(images)
    with torch.no_grad():
        return torch.cat([_inception()(batch) for batch in images.split(feature.BATCH)])


def inception_file() -> Path:
    """Where torch-fidelity keeps the weights of Inception."""
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS


@cache
def _inception() -> Any:  # noqa: ANN401
    from torchmetrics.image.fid import FrechetInceptionDistance

    return FrechetInceptionDistance(feature=2048).inception


def _features(name: str, outputs: Tensor) -> Tensor:
    """(n, F, d) features of what :func:`.set_values` takes; F is 1 for images."""
    n = len(outputs)
    if n < LEAST:
        raise ValueError(f"{name}: expected at least {LEAST} images on either side, got {n}")
    if outputs.dim() > 3:
        outputs = extract(name, outputs.reshape(-1, *outputs.shape[-3:]))
    return outputs.double().reshape(n, -1, outputs.shape[-1])


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """(n, m) kernels of (n, F, d) with (m, G, d), means over frames."""
    kernels = (x.flatten(0, 1) @ y.flatten(0, 1).T / x.shape[-1] + 1) ** 3
    return reduce(kernels, "(n f) (m g) -> n m", "mean", n=len(x), m=len(y))


def _discrepancy(xx: Tensor, xy: Tensor, yy: Tensor, counts: Tensor | None = None) -> Tensor:
    """(B) values for (B, n) counts of how often each resample drew each row of x; a row is never paired with its own copy."""
    if counts is None:
        counts = torch.ones(1, len(xx), dtype=xx.dtype)
    total, m = counts.sum(1), len(yy)
    pairs = total**2 - counts.square().sum(1)
    within = (((counts @ xx) * counts).sum(1) - counts.square() @ xx.diag()) / pairs
    return within + (yy.sum() - yy.trace()) / (m * (m - 1)) - 2 * (counts @ xy.mean(1)) / total


def _root(x: Tensor) -> Tensor:
    """A small matrix A with A'A the covariance of (n, d) features."""
    centred = (x - x.mean(0)) / (len(x) - 1) ** 0.5
    return centred if len(x) <= x.shape[1] else torch.linalg.qr(centred, mode="r").R


def _draws(n: int, times: int) -> Tensor:
    """(times, n) indices with replacement; the same for all sets of one size, so that comparisons of cells are paired."""
    return torch.randint(n, (times, n), generator=torch.Generator().manual_seed(0))


def _record(
    value: Tensor, resampled: Tensor, x: Tensor, y: Tensor, distance: Callable[[Tensor, Tensor], float]
) -> dict[str, Any]:
    centred = resampled - resampled.nanmean() + value  # duplicates in a resample shift a Frechet distance, but not its spread
    low, high = torch.nanquantile(centred, torch.tensor([0.025, 0.975], dtype=centred.dtype)).tolist()
    generator, real = torch.Generator().manual_seed(0), y.flatten(0, 1)
    size = min(len(x), len(y) // 2)  # as many as there are images: small sets differ by chance
    orders = [torch.randperm(len(y), generator=generator) for _ in range(SPLITS)]
    floor = sum(abs(distance(real[order[:size]], real[order[size:]])) for order in orders) / SPLITS
    return {"value": float(value), "low": low, "high": high, "n": len(x), "reference_n": len(y), "floor": floor, "floor_n": size}
