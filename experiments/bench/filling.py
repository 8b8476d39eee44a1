"""A model and its inputs, and how they get random numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

TIMESTEP = 500.0  # halfway, where a linear schedule of the ratio is at its mean


@dataclass(frozen=True)
class Subject:
    """A model and its inputs.

    Args:
        model: a U-Net, a block of one, or a transformer.
        sample: the first argument, such as (B, C, h, w) latents.
        others: further arguments of every call.
        latents: height and width of the latents of a U-Net, from which the package tomesd derives its grids; None for a model
            that the package does not know.
        time: what the model is called with at a timestep between 1000 (noise) and 0 (image).
    """

    model: nn.Module
    sample: Tensor
    others: Mapping[str, Any]
    latents: tuple[int, int] | None = None
    time: Callable[[float], Any] = float

    @torch.no_grad()
    def call(self, timestep: float = TIMESTEP) -> None:
        """One denoising step."""
        self.model(self.sample, timestep=self.time(timestep), **self.others)


def randomly(value: Any, device: str, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """Inputs, however nested: tensors on the meta device get random numbers, others are moved to the device.

    On the meta device itself others keep their values, since layouts are read from them.
    """
    if isinstance(value, Mapping):
        return {key: randomly(one, device, dtype) for key, one in value.items()}
    if isinstance(value, tuple):
        return tuple(randomly(one, device, dtype) for one in value)
    if not isinstance(value, Tensor):
        return value
    if not value.is_meta:
        return value if device == "meta" else value.to(device)
    return torch.empty_like(value, device=device, dtype=dtype).normal_()
