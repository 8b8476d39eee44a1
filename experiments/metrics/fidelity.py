"""Closeness pixel by pixel, from torchmetrics."""

from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure


def psnr(picture: Tensor, base: Tensor) -> float:
    """Peak signal-to-noise ratio of two (3, H, W) uint8 pictures in dB; infinite if they are equal."""
    return float(peak_signal_noise_ratio(picture.double(), base.double(), data_range=255.0))


def ssim(picture: Tensor, base: Tensor) -> float:
    """Structural similarity of two (3, H, W) uint8 pictures, at most 1. Wang et al. (2004), doi 10.1109/TIP.2003.819861."""
    value = structural_similarity_index_measure(picture[None].double(), base[None].double(), data_range=255.0)
    assert isinstance(value, Tensor)
    return float(value)
