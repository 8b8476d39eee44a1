"""The large model that the costs of a study are of: one of the kind of its own, in which merging saves what users would save."""

from dataclasses import dataclass

from torch import nn

from .config import Bench


@dataclass(frozen=True)
class Large:
    """A model at a resolution.

    Args:
        name: the model, and of what size its outputs are.
        step: whose operations are counted by shapes alone.
        block: in which planning and moving tokens are timed, in turns with the block without merging.
    """

    name: str
    step: Bench
    block: Bench


UNET = Large(
    "SD 1.5 at 1024 pixels",
    Bench(size="sd15", at="step", pixels=1024),
    Bench(refresh=[1]),
)
"""Latents of 128x128 and batch 2; the block is the first one at 512 pixels, 4,096 tokens of 320 channels."""
FLUX = Large(
    "Flux at 1024 pixels",
    Bench(size="flux", at="step", pixels=1024, batch=1),
    Bench(size="flux", kind="single", pixels=512, batch=1, refresh=[1]),
)
"""4,096 tokens of an image and 512 of its text; the block is a single one at 512 pixels, 1,024 tokens of an image."""
WAN = Large(
    "Wan 1.3B at 480x832 pixels and 81 frames",
    Bench(size="wan-1.3b", at="step", batch=1),
    Bench(size="wan-1.3b", pixels=[240, 416], frames=33, batch=1, refresh=[1]),
)
"""32,760 tokens; the block is one at half the size and 33 frames, 9x15x26 tokens."""


def like(denoiser: nn.Module) -> Large:
    """The large model of a denoiser's kind: a U-Net, or a transformer of images or of videos, told by the name of its class."""
    name = type(denoiser).__name__
    if "Transformer" not in name and "DiT" not in name:
        return UNET
    return WAN if "3D" in name or "Video" in name else FLUX
