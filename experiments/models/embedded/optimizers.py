"""The optimizer of transformers: Muon for the matrices inside blocks, AdamW for everything else."""

import re

from pytorch_optimizer import Muon
from torch import nn

INSIDE = re.compile(r"(blocks?|layers?)\.\d+\.(?!.*(norm|bias))")


def muon(model: nn.Module, rate: float) -> Muon:
    """Muon (Jordan et al. 2024) with updates of AdamW's size, so that one rate serves both.

    That size: Liu et al. (2025), arXiv 2502.16982, section 2.2. Embeddings, the first and the last layer, modulations, gains
    and biases are left to AdamW, as Muon's authors do.

    Args:
        model: what is trained.
        rate: peak learning rate of both.
    """
    inside, outside = [], []
    for name, weight in model.named_parameters():
        (inside if weight.ndim == 2 and INSIDE.search(name) else outside).append(weight)
    return Muon(
        [
            {"params": inside, "use_muon": True, "lr": rate, "weight_decay": 1e-2, "use_adjusted_lr": True},
            {"params": outside, "use_muon": False, "lr": rate, "weight_decay": 1e-3, "betas": (0.9, 0.99)},
        ]
    )
