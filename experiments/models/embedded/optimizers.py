"""The optimizer of transformers and of the video autoencoder: Muon for the matrices inside, AdamW for everything else."""

import re
from collections.abc import Callable, Mapping

from pytorch_optimizer import Muon
from torch import Tensor, nn

INSIDE = re.compile(r"(blocks?|layers?)\.\d+\.(?!.*(norm|bias))")
CHANNELS = 16  # the fewest of a convolution that Muon takes: the first and the last one have those of the pixels


def in_blocks(name: str, weight: Tensor) -> bool:
    """Whether a weight is a matrix inside one of several equal blocks."""
    return weight.ndim == 2 and INSIDE.search(name) is not None


def of_convolutions(name: str, weight: Tensor) -> bool:
    """Whether a weight is that of a convolution between many channels, (out, in, ...): a matrix of out rows."""
    return weight.ndim > 3 and min(weight.shape[:2]) >= CHANNELS


def muon(
    model: nn.Module,
    rate: float,
    inside: Callable[[str, Tensor], bool] = in_blocks,
    slower: Mapping[str, float] | None = None,
) -> Muon:
    """Muon (Jordan et al. 2024) with updates of AdamW's size, so that one rate serves both.

    That size: Liu et al. (2025), arXiv 2502.16982, section 2.2. Embeddings, the first and the last layer, modulations, gains
    and biases are left to AdamW, as Muon's authors do.

    Args:
        model: what is trained.
        rate: peak learning rate of both.
        inside: whether Muon takes a weight, by its name.
        slower: parts of the model, by name, that AdamW alone trains, each at a share of the rate.
    """
    slower = slower or {}
    orthogonal, outside, slow = [], [], {part: [] for part in slower}
    for name, weight in model.named_parameters():
        part = name.partition(".")[0]
        (slow[part] if part in slow else orthogonal if inside(name, weight) else outside).append(weight)
    adamw = {"use_muon": False, "weight_decay": 1e-3, "betas": (0.9, 0.99)}
    return Muon(
        [
            {"params": orthogonal, "use_muon": True, "lr": rate, "weight_decay": 1e-2, "use_adjusted_lr": True},
            {"params": outside, "lr": rate, **adamw},
            *({"params": slow[part], "lr": share * rate, **adamw} for part, share in slower.items()),
        ]
    )
