"""The real images that sets are compared with: a folder of the user's, or those that ship with an embedded model."""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ..tasks import PICTURE
from .sets import LEAST, extract

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
REAL = {name: Path(__file__).parent / "data" / f"{name}-real.safetensors" for name in ("emoji", "emoji-flux")}
"""Features of real images for KID, by embedded model."""


def features(name: str, model: str, folder: str | None = None) -> Tensor:
    """Features of the reference, cached for this process.

    Args:
        name: "kid" or "fid", which decides the network.
        model: as the study names it.
        folder: of PNG, JPEG or WebP images of any size; None takes what ships with the model.

    Returns:
        (m, d) features.

    Raises:
        ValueError: there are no real images.
    """
    if folder is not None:
        return _of_folder(name, folder)
    if not ships_features(name, model):
        raise ValueError(f"{name} compares with real images: give reference=FOLDER of them")
    from safetensors.torch import load_file

    return load_file(REAL[model])["features"].float()


def ships_features(name: str, model: str) -> bool:
    """Whether real images for a model ship with this package, as features of the network that the metric uses."""
    return name == "kid" and model in REAL


def image_files(folder: str) -> list[Path]:
    """The images of a folder, sorted by name.

    Raises:
        ValueError: there are too few.
    """
    paths = sorted(path for path in Path(folder).glob("*") if path.suffix.lower() in SUFFIXES)
    if len(paths) < LEAST:
        raise ValueError(
            f"reference: expected a folder of {LEAST} or more PNG, JPEG or WebP images, got {folder} with {len(paths)}"
        )
    return paths


@cache
def _of_folder(name: str, folder: str) -> Tensor:
    return torch.cat([extract(name, PICTURE.read(path)[None]) for path in image_files(folder)])
