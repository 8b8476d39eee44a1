"""Closeness by pixels. PSNR and SSIM are torchmetrics'; two more measure what merging damages first: detail and flat areas."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

FLAT = 8.0  # grey levels of 255 that a neighbourhood of 3x3 pixels may span and still be flat


def psnr(image: Tensor, base: Tensor) -> float:
    """Peak signal-to-noise ratio of two images, (3, H, W), videos, (F, 3, H, W), or height maps, in dB; infinite if equal.

    The squared error of a video is averaged over its frames first: the mean of their ratios would be infinite if one was equal.
    """
    return float(peak_signal_noise_ratio(image.double(), base.double(), data_range=255.0))


def relief(image: Tensor, base: Tensor) -> float:
    """PSNR of two (1, H, W) height maps without their mean heights, in dB: a shift of the whole map is no error."""
    return psnr(*(each.double() - each.double().mean() for each in (image, base)))


def ssim(image: Tensor, base: Tensor) -> float:
    """Structural similarity of two (3, H, W) uint8 images, at most 1. Wang et al. (2004), doi 10.1109/TIP.2003.819861."""
    value = structural_similarity_index_measure(image[None].double(), base[None].double(), data_range=255.0)
    assert isinstance(value, Tensor)
    return float(value)


def detail(image: Tensor, base: Tensor) -> float:
    """How similar two (3, H, W) uint8 images are in their amount of detail, in [0, 1]; 1 means as much as the base.

    The amount is the energy of the Laplacian of the luminance; the smaller of the two is divided by the larger, since merging
    can smooth an image or add seams: neither is better than the base, and the two must not cancel in a mean.
    """
    less, more = sorted(float(_laplacian(_luminance(p)).square().sum()) for p in (image, base))
    return less / more if more > 0 else 1.0


def background(image: Tensor, base: Tensor) -> float:
    """Root-mean-square difference of two (3, H, W) uint8 images where the base is flat, in [0, 255]; 0 if it is flat nowhere."""
    grey = _luminance(base)[None]
    span = F.max_pool2d(grey, 3, 1, 1) + F.max_pool2d(-grey, 3, 1, 1)
    flat = span[0] <= FLAT
    if not flat.any():
        return 0.0
    return float((image.double() - base.double())[:, flat].square().mean().sqrt())


def _luminance(image: Tensor) -> Tensor:
    if len(image) == 1:  # a height map
        return image[0].double()
    return torch.einsum("chw,c->hw", image.double(), torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64))


def _laplacian(grey: Tensor) -> Tensor:
    kernel = torch.tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=grey.dtype)
    return F.conv2d(grey[None, None], kernel[None, None])[0, 0]
