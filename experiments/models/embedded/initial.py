"""Initial weights of transformers; those of diffusers' classes are PyTorch's defaults, since these are made to be loaded."""

from collections.abc import Callable

from torch import nn


def initialise(transformer: nn.Module, zero: Callable[[str], bool], small: Callable[[str], bool]) -> None:
    """Set linear layers as in the training code of DiT and Wan: Xavier weights, zero biases.

    Layers that gate a block's residual path begin at zero, so that every block is the identity and depth does no harm at first
    ("adaLN-Zero"); the last layer begins at zero, so that the first prediction is zero. Peebles and Xie (2022), arXiv 2212.09748,
    section 3.2; Wan et al. (2025), arXiv 2503.20314.

    Args:
        transformer: whose layers are set, in place.
        zero: whether the layer of this name begins at zero.
        small: whether it begins with a standard deviation of 0.02, as layers that embed times and texts do.
    """
    for name, layer in transformer.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        if zero(name):
            nn.init.zeros_(layer.weight)
        elif small(name):
            nn.init.normal_(layer.weight, std=0.02)
        else:
            nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
