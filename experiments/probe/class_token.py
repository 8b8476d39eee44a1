"""Features of images as a probe reads them: the class token after the last layer norm."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mergekit_diff import MergeStrategy, merging

from ..tasks.features import PIXELS, normalized

MERGING: dict[str, Any] = {"roles": ("self_attention",), "share": (), "proportional": True}
"""Patches merge before the attention of every block and come back after it, as in the study ``features``."""
BATCH = 8


@torch.no_grad()
def class_features(model: Any, images: Tensor, advance: Callable[[], None], batch: int = BATCH) -> Tensor:  # noqa: ANN401
    """(n, C) float32 features of the class token.

    Args:
        model: as the task ``features`` calls it.
        images: (n, h, w, 3) uint8 squares, resized to 224 pixels with a bicubic filter.
        advance: called after every image.
        batch: images of a call.
    """
    features = []
    for part in images.split(batch):
        pixels = torch.stack([normalized(_resized(image)) for image in part]).to(model.device, model.dtype)
        features.append(model.transformer(pixel_values=pixels).last_hidden_state[:, 0].float().cpu())
        for _ in part:
            advance()
    return torch.cat(features)


def merged_features(
    model: Any,  # noqa: ANN401
    strategy: MergeStrategy,
    images: Tensor,
    advance: Callable[[], None],
    batch: int = BATCH,
) -> tuple[Tensor, float]:
    """The same while patches merge, and the ratio that the session granted.

    Raises:
        RuntimeError: nothing merged.
    """
    with merging(model, strategy, strict=True, **MERGING) as session:
        features = class_features(model, images, advance, batch)
    return features, session.report().granted


def _resized(image: Tensor) -> Image.Image:
    return Image.fromarray(image.numpy()).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)
