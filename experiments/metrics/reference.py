"""The real pictures that sets are compared with: a folder of the user's, or those that the emoji model was trained on."""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from .available import LEAST

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
EMOJI = Path(__file__).parent / "data" / "emoji-real.safetensors"


def features(name: str, model: str, folder: str | None = None) -> Tensor:
    """Features of the reference, remembered for this process.

    Args:
        name: "kid" or "fid", which decides the network.
        model: as the study names it.
        folder: of PNG, JPEG or WebP pictures of any size; None takes what ships with the model.

    Returns:
        (m, d) features.

    Raises:
        ValueError: there are no real pictures.
    """
    if folder is not None:
        return _of_folder(name, folder)
    if not ships_features(name, model):
        raise ValueError(f"{name} compares with real pictures: give reference=FOLDER of them")
    from safetensors.torch import load_file

    return load_file(EMOJI)["features"].float()


def ships_features(name: str, model: str) -> bool:
    """Whether real pictures of a model come with this package, as features of the network that the metric uses."""
    return name == "kid" and model == "emoji"


def picture_files(folder: str) -> list[Path]:
    """The pictures of a folder, sorted by name.

    Raises:
        ValueError: they are too few.
    """
    found = sorted(path for path in Path(folder).glob("*") if path.suffix.lower() in SUFFIXES)
    if len(found) < LEAST:
        raise ValueError(f"reference={folder} must be a folder of {LEAST} or more PNG, JPEG or WebP pictures, not {len(found)}")
    return found


@cache
def _of_folder(name: str, folder: str) -> Tensor:
    from PIL import Image

    from ..run.picture import as_tensor
    from .sets import extract

    rows = []
    for path in picture_files(folder):
        with Image.open(path) as image:
            rows.append(extract(name, as_tensor(image)[None]))
    return torch.cat(rows)
