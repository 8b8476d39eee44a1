"""Learned perceptual distance, with the user's own weights.

The weights are one safetensors file; the environment variable MERGEKIT_DIFF_LPIPS has its path. Make it where ``lpips`` 0.1.4 and
torchvision are installed::

    import lpips, safetensors.torch
    state = lpips.LPIPS(net="alex").state_dict()  # "lins." repeats "lin0" to "lin4"
    safetensors.torch.save_file({k: v.contiguous() for k, v in state.items() if not k.startswith("lins.")}, "lpips.safetensors")
"""

import os
from functools import cache

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from .networks import LPIPS

# key of the trunk's weights, stride, padding, whether pooling comes before
LAYERS = [
    ("net.slice1.0", 4, 2, False),
    ("net.slice2.3", 1, 2, True),
    ("net.slice3.6", 1, 1, True),
    ("net.slice4.8", 1, 1, False),
    ("net.slice5.10", 1, 1, False),
]


def distance(image: Tensor, base: Tensor) -> float:
    """LPIPS with AlexNet of two (3, H, W) uint8 images, at least 0; 0 if they are equal.

    Zhang et al. (2018), arXiv 1801.03924, version 0.1 of its weights. Images keep their size, of at least 31 pixels.
    """
    weights = _weights(os.environ[LPIPS])
    layers = _activations(torch.stack([image, base]).float() / 127.5 - 1, weights)
    return float(sum(_layer_distance(x, weights[f"lin{i}.model.1.weight"]) for i, x in enumerate(layers)))


def _layer_distance(x: Tensor, head: Tensor) -> Tensor:
    """(2, C, H, W) activations of both images and the (1, C, 1, 1) weights of their channels to their distance."""
    a, b = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
    return F.conv2d((a - b).square()[None], head).mean()


@torch.no_grad()
def _activations(x: Tensor, weights: dict[str, Tensor]) -> list[Tensor]:
    """(B, 3, H, W) in [-1, 1] to the output of every convolution."""
    x, layers = (x - weights["scaling_layer.shift"]) / weights["scaling_layer.scale"], []
    for key, stride, padding, pooled in LAYERS:
        x = F.max_pool2d(x, 3, 2) if pooled else x
        x = F.relu(F.conv2d(x, weights[f"{key}.weight"], weights[f"{key}.bias"], stride, padding))
        layers.append(x)
    return layers


@cache
def _weights(path: str) -> dict[str, Tensor]:
    return load_file(path)
