"""Stage ``evaluate``: is the shipped model a fair instrument? Compares its images with real ones by every measure of the card.

Images are kept in ``folder/evaluate`` as they are made, so that a second call resumes.
"""

import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from ...files import write_atomically
from ...metrics import feature, set_values, text
from ...metrics.reference import EMOJI
from ...results.inference import bootstrap
from ...tasks import PICTURE
from .. import identity, load_pipeline
from . import data, vae
from .instrument import instrument
from .text import caption

STEPS, GUIDANCE, BATCH = 20, 2.0, 8
IMAGES, HELD_OUT_SEEDS, CANDIDATES, NAMED = 500, 4, 100, 32
Sample = tuple[str, int]
"""Prompt and seed of an image."""


def evaluate(folder: Path) -> Path:
    """Measure everything, print it and write ``folder/evaluate/MODEL/measures.json``; returns its path.

    Args:
        folder: work folder of all stages; measuring the autoencoder needs its ``emoji.pt``.
    """
    pipe, words, held = load_pipeline("emoji"), data.concepts(trained=True), data.held_out()
    folder = folder / "evaluate" / identity("emoji")
    pairs = [caption(words[name], style) for name in words for style in data.STYLES if (name, style) not in held]
    seen = [(pairs[i % len(pairs)], i // len(pairs)) for i in range(IMAGES)]
    unseen = [(caption(words[name], style), seed) for name, style in sorted(held) for seed in range(HELD_OUT_SEEDS)]
    features, captions = real()
    training = features[[captions.index(prompt) for prompt in pairs]]
    measures = {
        "model": identity("emoji"),
        "seconds per image": seconds(pipe),
        "vae psnr": reconstruction(folder.parent.parent, pipe.vae),
        "seen": quality(draw(pipe, folder, seen), seen, training) | retrieval(folder, seen, features, captions),
        "held out": retrieval(draw(pipe, folder, unseen), unseen, features, captions),
        "instrument": instrument(folder / "instrument"),
    }
    name_sheet(folder, pairs)
    write_atomically(folder / "measures.json", json.dumps(measures, indent=1).encode())
    print(json.dumps(measures, indent=1))
    return folder / "measures.json"


def draw(pipe: Any, folder: Path, samples: Sequence[Sample]) -> Path:  # noqa: ANN401
    """Make the missing images in batches and in random order, so that several processes can share the work."""
    while missing := [sample for sample in samples if not file(folder, sample).exists()]:
        batch = random.sample(missing, min(BATCH, len(missing)))
        generators = [torch.Generator().manual_seed(seed) for _, seed in batch]
        prompts = [prompt for prompt, _ in batch]
        images = pipe(prompts, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generators).images
        for sample, image in zip(batch, images, strict=True):
            write_atomically(file(folder, sample), PICTURE.encode(image))
        print(f"\r{len(samples) - len(missing) + len(batch)} of {len(samples)} images", end="", flush=True)
    print()
    return folder


def file(folder: Path, sample: Sample) -> Path:
    """The file of an image."""
    return folder / f"{hashlib.sha256(repr((sample, STEPS, GUIDANCE)).encode()).hexdigest()[:16]}.png"


def real() -> tuple[Tensor, list[str]]:
    """(n, 1280) features of the real images, and their captions."""
    with safe_open(EMOJI, framework="pt") as opened:
        return opened.get_tensor("features").float(), json.loads(opened.metadata()["captions"])


def quality(folder: Path, samples: Sequence[Sample], training: Tensor) -> dict[str, Any]:
    """KID against the training images; distance of images to the nearest of them, and of these to each other."""
    x = features_of(folder, samples)
    among = F.normalize(training, dim=1) @ F.normalize(training, dim=1).T
    nearest = 1 - (F.normalize(x, dim=1) @ F.normalize(training, dim=1).T).max(1).values
    others = 1 - (among - 2 * torch.eye(len(training))).max(1).values
    return {
        "kid": set_values("kid", x, training),
        "distance to the nearest training image": float(nearest.median()),
        "of training images to each other": float(others.median()),
    }


def retrieval(folder: Path, samples: Sequence[Sample], features: Tensor, captions: Sequence[str]) -> dict[str, Any]:
    """R@1 among 100 concepts, that of real images with the same captions, and their ratio; intervals over captions."""
    candidates = hundred()
    prompts = list(dict.fromkeys(prompt for prompt, _ in samples))
    x = features_of(folder, samples)
    hits = [text.retrieval(row[None], [prompt], candidates)["R@1"] for row, (prompt, _) in zip(x, samples, strict=True)]
    generated = [mean(hit for hit, (other, _) in zip(hits, samples, strict=True) if other == prompt) for prompt in prompts]
    rows = features[[captions.index(prompt) for prompt in prompts]]
    real_hits = [text.retrieval(row[None], [prompt], candidates)["R@1"] for row, prompt in zip(rows, prompts, strict=True)]
    return {
        "n": len(samples),
        "captions": len(prompts),
        "r@1": bootstrap(generated),
        "real r@1": bootstrap(real_hits),
        **relative(generated, real_hits),
    }


def relative(generated: Sequence[float], real_hits: Sequence[float]) -> dict[str, Any]:
    """Ratio of two means over the same captions, with a bootstrap interval over captions."""
    a, b = np.array(generated), np.array(real_hits)
    rows = np.random.default_rng(0).integers(len(a), size=(9999, len(a)))
    low, high = np.nanquantile(a[rows].mean(1) / np.maximum(b[rows].mean(1), 1e-9), [0.025, 0.975])
    return {"share of real": (float(a.mean() / b.mean()), float(low), float(high))}


def hundred() -> list[str]:
    """The words of 100 concepts: all that the model was trained on, then others in alphabetical order."""
    trained = list(data.concepts(trained=True).values())
    return [*trained, *(word for word in data.concepts().values() if word not in trained)][:CANDIDATES]


def features_of(folder: Path, samples: Sequence[Sample]) -> Tensor:
    """(n, 1280) features of generated images."""
    return feature.features(torch.stack([PICTURE.read(file(folder, sample)) for sample in samples]))


def seconds(pipe: Any) -> float:  # noqa: ANN401
    """Median time of one image with guidance."""
    return median(_timed(lambda: pipe("a noto apple", num_inference_steps=STEPS, guidance_scale=GUIDANCE)))


def reconstruction(folder: Path, autoencoder: Any) -> float:  # noqa: ANN401
    """PSNR in dB on the 100 images that the autoencoder never saw."""
    held = vae.to_float(vae.held_out(data.load(folder).images))
    return vae.psnr(held, vae.reconstruct(autoencoder, held))


def name_sheet(folder: Path, pairs: Sequence[str]) -> None:
    """32 images in random order for a person to name, the words to choose from, and the answers in a separate file."""
    order = random.Random(0)
    concepts = order.sample(sorted({text.parse(prompt, text.words())[0] for prompt in pairs}), NAMED)
    chosen = [order.choice([prompt for prompt in pairs if text.parse(prompt, text.words())[0] == word]) for word in concepts]
    images = torch.stack([PICTURE.read(file(folder, (prompt, 0))) for prompt in chosen])
    large = F.interpolate(images.float(), scale_factor=2, mode="bicubic").clamp(0, 255)
    vae.save_sheet(large / 127.5 - 1, folder / "name.png", columns=8)
    write_atomically(folder / "name.txt", "\n".join(sorted(hundred())).encode())
    write_atomically(folder / "answers.txt", "\n".join(f"{i + 1} {prompt}" for i, prompt in enumerate(chosen)).encode())


def _timed(call: Callable[[], object], times: int = 3) -> Iterator[float]:
    for _ in range(times):
        start = time.perf_counter()
        call()
        yield time.perf_counter() - start
