"""Stage ``latents``: the training videos, rendered and encoded once.

Every (emoji, style) pair is drawn in every motion on ``COPIES`` backgrounds. Parts are written one by one, so that a second call
resumes. The first frame of a video is a latent frame of its own: the transformer takes it for an image.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from ....files import write_atomically
from ..flux import data
from ..flux.backgrounds import Background
from ..vae import encode
from .motions import MOTIONS
from .scenes import Scene, scenes, videos
from .vae import normalise

COPIES = 4


@dataclass(frozen=True)
class Latents:
    """The training set.

    Args:
        values: (n, 16, 5, 16, 16) float16, of mean 0 and standard deviation 1.
        scenes: what each of them shows.
    """

    values: Tensor
    scenes: list[Scene]


def build(folder: Path) -> Path:
    """Render and encode the missing parts, one for each turn through all pairs; returns their folder.

    Args:
        folder: work folder of all stages, with what the stages ``data`` and ``vae`` wrote.
    """
    vae = AutoencoderKLWan.from_pretrained(folder / "vae").eval()
    pairs = data.pairs()
    cutouts = data.select(data.load(folder), pairs)
    drawn = scenes(pairs, len(pairs) * len(MOTIONS) * COPIES, torch.Generator().manual_seed(0))
    for part in range(len(MOTIONS) * COPIES):
        file = folder / "latents" / f"part-{part:03d}.pt"
        if not file.exists():
            own = drawn[part * len(pairs) : (part + 1) * len(pairs)]
            x = videos(cutouts, own, torch.Generator().manual_seed(part))
            _write(file, normalise(vae, encode(vae, x)).half(), own)
            print(f"\r{part + 1} of {len(MOTIONS) * COPIES} parts", end="", flush=True)
    print()
    return folder / "latents"


def load(folder: Path) -> Latents:
    """The training set that :func:`build` wrote.

    Raises:
        FileNotFoundError: there is none, or a part is missing.
    """
    files = sorted((folder / "latents").glob("part-*.pt"))
    if len(files) != len(MOTIONS) * COPIES:
        raise FileNotFoundError(f"expected {len(MOTIONS) * COPIES} parts of the stage latents in {folder}, got {len(files)}")
    parts = [torch.load(file, weights_only=True) for file in files]
    rows = [row for part in parts for row in part["scenes"]]
    drawn = [Scene(name, style, motion, Background(kind, colour)) for name, style, motion, kind, colour in rows]
    return Latents(torch.cat([part["values"] for part in parts]), drawn)


def _write(file: Path, values: Tensor, drawn: list[Scene]) -> None:
    rows = [(scene.name, scene.style, scene.motion, scene.background.kind, scene.background.colour) for scene in drawn]
    content = io.BytesIO()
    torch.save({"values": values, "scenes": rows}, content)
    write_atomically(file, content.getvalue())
