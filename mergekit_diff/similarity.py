"""Similarity metrics: (..., N, C) and (..., M, C) to (..., N, M), larger is more similar.

>>> a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0], [3.0, 0.0]])
>>> Cosine()(a, b), Dot()(a, b)
(tensor([[0., 1.]]), tensor([[0., 3.]]))
>>> Euclidean()(a, b)
tensor([[-2.2361, -2.0000]])
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .components import SimilarityMetric
from .registry import register


@register("cosine")
@dataclass(frozen=True)
class Cosine(SimilarityMetric):
    """Cosine of the angle, in [-1, 1]; the metric of ToMe (Bolya et al. 2023, arXiv 2210.09461) and ReToM (arXiv 2507.12771)."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        if b is a and a.dtype.itemsize > 2:  # squared norms overflow in float16
            products = a @ a.mT
            lengths = products.diagonal(dim1=-2, dim2=-1).sqrt().clamp_min(1e-12)
            return products / (lengths[..., None] * lengths[..., None, :])
        unit_a = F.normalize(a, dim=-1)
        return unit_a @ (unit_a if b is a else F.normalize(b, dim=-1)).mT


@register("dot")
@dataclass(frozen=True)
class Dot(SimilarityMetric):
    """Inner product, the score of a key in attention (Vaswani et al. 2017, arXiv 1706.03762); it favors tokens of large norm."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b.mT


@register("euclidean")
@dataclass(frozen=True)
class Euclidean(SimilarityMetric):
    """Minus the L2 distance, at most 0: unlike the cosine, it also compares norms."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        wide = _wide(b)
        origin = wide[..., :1, :]  # subtracting one token from all keeps distances, and smaller numbers round less
        y = wide - origin
        x = y if b is a else _wide(a) - origin
        long_y = torch.linalg.vector_norm(y, dim=-1).square()
        long_x = long_y if b is a else torch.linalg.vector_norm(x, dim=-1).square()
        return -(long_x[..., None] + long_y[..., None, :] - 2 * (x @ y.mT)).clamp_min(0).sqrt().to(a.dtype)


@register("manhattan")
@dataclass(frozen=True)
class Manhattan(SimilarityMetric):
    """Minus the L1 distance, at most 0; less dominated by single channels than L2, and the slowest metric here."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return -torch.cdist(_wide(a), _wide(b), p=1).to(a.dtype)


@register("pearson")
@dataclass(frozen=True)
class Pearson(SimilarityMetric):
    """Correlation of the channels (Pearson 1895), in [-1, 1]: the cosine of tokens whose own mean is subtracted."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        centred_a = a - a.mean(-1, keepdim=True)
        return Cosine()(centred_a, centred_a if b is a else b - b.mean(-1, keepdim=True))


@register("fourier")
@dataclass(frozen=True)
class Fourier(SimilarityMetric):
    """Cosine of the real part of the spectrum over channels, low frequencies alone. Fourier Token Merging (2025), NeurIPS.

    With ``f(x) = Re(FFT(x))[: keep * C]``, the cosine of f(a) and f(b), in [-1, 1]. The real part is even: its second half
    repeats the first, and channels enter as ``x[c] + x[-c]`` alone.

    Args:
        keep: share of the spectrum that is compared, in (0, 1]; the authors use 0.6 to 1.
    """

    keep: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.keep <= 1:
            raise ValueError(f"metric 'fourier': expected keep in (0, 1], got {self.keep}")

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        spectrum = self._spectrum(a)
        return Cosine()(spectrum, spectrum if b is a else self._spectrum(b)).to(a.dtype)

    def _spectrum(self, x: Tensor) -> Tensor:
        kept, wide = max(1, int(self.keep * x.shape[-1])), _wide(x)
        values = torch.fft.fft(wide, dim=-1).real if x.numel() else wide  # MKL refuses to transform no token at all
        return values[..., :kept]


def _wide(x: Tensor) -> Tensor:
    """At least float32: ``cdist`` has no half-precision kernel on CPUs."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
