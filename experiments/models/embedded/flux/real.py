"""Real images as ``emoji-flux`` should draw them, and the stage ``reference``, which stores their features for KID."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ....metrics import feature
from ....metrics.networks import efficientnet
from ....metrics.reference import REAL
from .. import cutouts
from ..scenes import Scene, scenes, seeded
from ..sheets import to_bytes
from ..text_score import LICENCES
from . import samples

IMAGES = 500  # that the stage ``evaluate`` generates, and as many real ones


def images(emoji: cutouts.Cutouts, drawn: list[Scene], random: torch.Generator) -> Tensor:
    """The real images of scenes as users would see them: (n, 3, H, H) uint8, with the cutouts' size."""
    return to_bytes(samples.images(emoji, drawn, emoji.images.shape[-1], random))


def seen(n: int = IMAGES) -> list[Scene]:
    """Scenes of the trained emoji that are generated and compared with real images."""
    return scenes(cutouts.pairs(), n, seeded(0))


def write(folder: Path) -> Path:
    """Store the features of real images of :func:`seen`, with their captions, and return the file.

    Args:
        folder: work folder of all stages, with the ``cutouts.pt`` of the stage ``data``.
    """
    rows, path = feature.features(images(cutouts.load(folder), seen(), seeded(2))), REAL["emoji-flux"]
    captions = json.dumps([str(scene) for scene in seen()])
    metadata = {"captions": captions, "extractor": efficientnet(), "n": str(len(rows)), "licence": LICENCES}
    save_file({"features": rows.half()}, path, metadata)
    return path
