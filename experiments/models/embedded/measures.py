"""What the stages ``evaluate`` measure, for every embedded model: quality, retrieval, and a sheet for a person to name."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...files import write_atomically
from ...metrics import set_values, text
from ...results.inference import bootstrap
from . import data
from .sheets import save_sheet

CANDIDATES, NAMED = 100, 32


def quality(x: Tensor, real: Tensor) -> dict[str, Any]:
    """KID against real images; distance of images to the nearest of them, and of these to each other, in (n, 1280) features."""
    among = F.normalize(real, dim=1) @ F.normalize(real, dim=1).T
    nearest = 1 - (F.normalize(x, dim=1) @ F.normalize(real, dim=1).T).max(1).values
    others = 1 - (among - 2 * torch.eye(len(real))).max(1).values
    return {
        "kid": set_values("kid", x, real),
        "distance to the nearest training image": float(nearest.median()),
        "of training images to each other": float(others.median()),
    }


def retrieval(x: Tensor, captions: Sequence[str], real: Tensor, real_captions: Sequence[str]) -> dict[str, Any]:
    """R@1 among 100 concepts, that of real images, and their ratio; intervals over captions.

    Args:
        x: (n, 1280) features of generated images.
        captions: of a style and a concept, one an image; several images may share one.
        real: (m, 1280) features of real images.
        real_captions: theirs; the same captions, in whatever order and number.
    """
    generated, reached = _recall(x, captions), _recall(real, real_captions)
    ordered = [reached[caption] for caption in generated]
    return {
        "n": len(captions),
        "captions": len(generated),
        "r@1": bootstrap(list(generated.values())),
        "real r@1": bootstrap(ordered),
        **relative(list(generated.values()), ordered),
    }


def _recall(x: Tensor, captions: Sequence[str]) -> dict[str, float]:
    """Share of a caption's images whose concept is retrieved first, by caption."""
    candidates = hundred()
    hits = [text.retrieval(row[None], [caption], candidates)["R@1"] for row, caption in zip(x, captions, strict=True)]
    return {
        caption: mean(hit for hit, other in zip(hits, captions, strict=True) if other == caption)
        for caption in dict.fromkeys(captions)
    }


def relative(generated: Sequence[float], real_hits: Sequence[float]) -> dict[str, Any]:
    """Ratio of two means over the same captions, with a bootstrap interval over captions."""
    a, b = np.array(generated), np.array(real_hits)
    rows = np.random.default_rng(0).integers(len(a), size=(9999, len(a)))
    low, high = np.nanquantile(a[rows].mean(1) / np.maximum(b[rows].mean(1), 1e-9), [0.025, 0.975])
    return {"share of real": (float(a.mean() / max(b.mean(), 1e-9)), float(low), float(high))}


def hundred() -> list[str]:
    """The words of 100 concepts: all that the models are trained on, then others in alphabetical order."""
    trained = list(data.concepts(trained=True).values())
    return [*trained, *(word for word in data.concepts().values() if word not in trained)][:CANDIDATES]


def to_be_named(captions: Sequence[str], n: int = NAMED) -> list[int]:
    """Rows of captions for a sheet: up to ``n`` different concepts in random order, a random caption of each."""
    order = random.Random(0)
    words = [text.parse(caption, text.words())[0] for caption in captions]
    concepts = order.sample(sorted(set(words)), min(n, len(set(words))))
    return [order.choice([row for row, other in enumerate(words) if other == word]) for word in concepts]


def name_sheet(folder: Path, images: Tensor, answers: Sequence[str], choices: Sequence[str], columns: int) -> Path:
    """Write what a viewer who has not seen the prompts needs, and the answers apart from it.

    ``name.png`` has the images in their order, row by row; ``name.txt`` the list to choose from; ``answers.txt`` the answers.

    Args:
        folder: of the three files.
        images: (n, 3, H, W) images or (n, 3, F, H, W) videos, uint8; a video is drawn as a row of its frames.
        answers: of every image.
        choices: the list to choose from.
        columns: images, or videos, in a row.

    Returns:
        The path of the sheet.
    """
    save_sheet(images.float() / 127.5 - 1, folder / "name.png", columns)
    write_atomically(folder / "name.txt", "\n".join(sorted(choices)).encode())
    write_atomically(folder / "answers.txt", "\n".join(f"{i + 1} {answer}" for i, answer in enumerate(answers)).encode())
    return folder / "name.png"


def enlarged(images: Tensor, times: int) -> Tensor:
    """(n, 3, H, W) uint8 images, larger."""
    return F.interpolate(images.float(), scale_factor=times, mode="bicubic").clamp(0, 255).to(torch.uint8)


def write(folder: Path, measures: dict[str, Any]) -> Path:
    """Print the measures and write them to ``folder/measures.json``; returns its path."""
    content = json.dumps(measures, indent=1)
    write_atomically(folder / "measures.json", content.encode())
    print(content)
    return folder / "measures.json"
