"""Stage ``evaluate``: is the shipped model a fair instrument? Its pictures against the real ones, by every measure of the card.

Pictures are kept in ``folder/evaluate`` as they are made, so that a second call goes on where the first one stopped.
"""

import hashlib
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from ...files import write_atomically
from ...metrics import feature, set_values, text
from ...metrics.reference import EMOJI
from ...results.inference import bootstrap
from ...run.generation import png_bytes
from ...run.picture import as_tensor
from .. import identity, load_pipeline
from . import data, vae
from .instrument import instrument
from .text import caption

STEPS, GUIDANCE, BATCH = 20, 2.0, 8
PICTURES, HELD_OUT_SEEDS, CANDIDATES, NAMED = 500, 4, 100, 32
Made = tuple[str, int]


def evaluate(folder: Path) -> Path:
    """Measure everything, print it and write ``folder/evaluate/MODEL/measures.json``; returns its path.

    Args:
        folder: work folder of all stages; the autoencoder's measure needs its ``emoji.pt``.
    """
    pipe, words, held = load_pipeline("emoji"), data.concepts(trained=True), data.held_out()
    folder = folder / "evaluate" / identity("emoji")
    pairs = [caption(words[name], style) for name in words for style in data.STYLES if (name, style) not in held]
    seen = [(pairs[i % len(pairs)], i // len(pairs)) for i in range(PICTURES)]
    unseen = [(caption(words[name], style), seed) for name, style in sorted(held) for seed in range(HELD_OUT_SEEDS)]
    features, captions = real()
    shown = features[[captions.index(prompt) for prompt in pairs]]
    found = {
        "model": identity("emoji"),
        "seconds a picture": seconds(pipe),
        "vae psnr": reconstruction(folder.parent.parent, pipe.vae),
        "seen": quality(draw(pipe, folder, seen), seen, shown) | retrieval(folder, seen, features, captions),
        "held out": retrieval(draw(pipe, folder, unseen), unseen, features, captions),
        "instrument": instrument(folder / "instrument"),
    }
    name_sheet(folder, pairs)
    write_atomically(folder / "measures.json", json.dumps(found, indent=1).encode())
    print(json.dumps(found, indent=1))
    return folder / "measures.json"


def draw(pipe: Any, folder: Path, wanted: Sequence[Made]) -> Path:  # noqa: ANN401
    """Make the pictures that are not there yet, some at a time and in any order, so that several processes can share the work."""
    while missing := [one for one in wanted if not file(folder, one).exists()]:
        batch = random.sample(missing, min(BATCH, len(missing)))
        generators = [torch.Generator().manual_seed(seed) for _, seed in batch]
        prompts = [prompt for prompt, _ in batch]
        images = pipe(prompts, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generators).images
        for one, image in zip(batch, images, strict=True):
            write_atomically(file(folder, one), png_bytes(image))
        print(f"\r{len(wanted) - len(missing) + len(batch)} of {len(wanted)} pictures", end="", flush=True)
    print()
    return folder


def file(folder: Path, made: Made) -> Path:
    """Where a picture lies."""
    return folder / f"{hashlib.sha256(repr((made, STEPS, GUIDANCE)).encode()).hexdigest()[:16]}.png"


def real() -> tuple[Tensor, list[str]]:
    """(n, 1280) features of the real pictures, and their captions."""
    with safe_open(EMOJI, framework="pt") as opened:
        return opened.get_tensor("features").float(), json.loads(opened.metadata()["captions"])


def quality(folder: Path, made: Sequence[Made], shown: Tensor) -> dict[str, Any]:
    """KID against the training pictures, and how near a picture comes to one of them, beside real ones to each other."""
    x = features_of(folder, made)
    among = F.normalize(shown, dim=1) @ F.normalize(shown, dim=1).T
    nearest = 1 - (F.normalize(x, dim=1) @ F.normalize(shown, dim=1).T).max(1).values
    others = 1 - (among - 2 * torch.eye(len(shown))).max(1).values
    return {
        "kid": set_values("kid", x, shown),
        "distance to the nearest training picture": float(nearest.median()),
        "of training pictures to each other": float(others.median()),
    }


def retrieval(folder: Path, made: Sequence[Made], features: Tensor, captions: Sequence[str]) -> dict[str, Any]:
    """R@1 among 100 concepts, that of the real pictures of the same captions, and their ratio; intervals over captions."""
    candidates = hundred()
    prompts = list(dict.fromkeys(prompt for prompt, _ in made))
    x = features_of(folder, made)
    hits = [text.retrieval(row[None], [prompt], candidates)["R@1"] for row, (prompt, _) in zip(x, made, strict=True)]
    drawn = [statistics.mean(hit for hit, (other, _) in zip(hits, made, strict=True) if other == prompt) for prompt in prompts]
    rows = features[[captions.index(prompt) for prompt in prompts]]
    known = [text.retrieval(row[None], [prompt], candidates)["R@1"] for row, prompt in zip(rows, prompts, strict=True)]
    return {
        "n": len(made),
        "captions": len(prompts),
        "r@1": bootstrap(drawn),
        "real r@1": bootstrap(known),
        **share(drawn, known),
    }


def share(drawn: Sequence[float], known: Sequence[float]) -> dict[str, Any]:
    """Ratio of two means of the same captions, with a bootstrap interval over the captions."""
    a, b = np.array(drawn), np.array(known)
    rows = np.random.default_rng(0).integers(len(a), size=(9999, len(a)))
    low, high = np.nanquantile(a[rows].mean(1) / np.maximum(b[rows].mean(1), 1e-9), [0.025, 0.975])
    return {"share of real": (float(a.mean() / b.mean()), float(low), float(high))}


def hundred() -> list[str]:
    """The words of 100 concepts: all that the model was trained on, and others in alphabetical order."""
    trained = list(data.concepts(trained=True).values())
    return [*trained, *(word for word in data.concepts().values() if word not in trained)][:CANDIDATES]


def features_of(folder: Path, made: Sequence[Made]) -> Tensor:
    """(n, 1280) features of pictures that were drawn."""
    return feature.features(torch.stack([as_tensor(Image.open(file(folder, one))) for one in made]))


def seconds(pipe: Any) -> float:  # noqa: ANN401
    """Median time of one picture with guidance."""
    return statistics.median(_timed(lambda: pipe("a noto apple", num_inference_steps=STEPS, guidance_scale=GUIDANCE)))


def reconstruction(folder: Path, autoencoder: Any) -> float:  # noqa: ANN401
    """PSNR in dB on the 100 pictures that the autoencoder never saw."""
    held = vae.to_float(vae.held_out(data.load(folder).images))
    return vae.psnr(held, vae.reconstruct(autoencoder, held))


def name_sheet(folder: Path, pairs: Sequence[str]) -> None:
    """32 pictures in random order for somebody to name, the words to choose from, and the answers apart."""
    order = random.Random(0)
    concepts = order.sample(sorted({text.parse(prompt, text.words())[0] for prompt in pairs}), NAMED)
    chosen = [order.choice([prompt for prompt in pairs if text.parse(prompt, text.words())[0] == word]) for word in concepts]
    pictures = torch.stack([as_tensor(Image.open(file(folder, (prompt, 0)))) for prompt in chosen])
    large = F.interpolate(pictures.float(), scale_factor=2, mode="bicubic").clamp(0, 255)
    vae.save_sheet(large / 127.5 - 1, folder / "name.png", columns=8)
    write_atomically(folder / "name.txt", "\n".join(sorted(hundred())).encode())
    write_atomically(folder / "answers.txt", "\n".join(f"{i + 1} {prompt}" for i, prompt in enumerate(chosen)).encode())


def _timed(call: Callable[[], object], times: int = 3) -> Iterator[float]:
    for _ in range(times):
        start = time.perf_counter()
        call()
        yield time.perf_counter() - start
