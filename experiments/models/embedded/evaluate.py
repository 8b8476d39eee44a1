"""Stage ``evaluate`` of ``emoji``: is the model a fair instrument? Its images are compared with real ones by every measure.

Images are kept in ``folder/evaluate`` as they are made, so that a second call resumes.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from ...metrics.reference import REAL
from .. import identity, load_pipeline
from . import data, measures, vae
from .autoencoder import psnr, reconstruct
from .generated import Generated
from .instrument import instrument
from .text import caption

STEPS, GUIDANCE = 20, 2.0
IMAGES, HELD_OUT_SEEDS = 500, 4


def evaluate(folder: Path, weights: str = "emoji") -> Path:
    """Measure everything, print it and write ``folder/evaluate/IDENTITY/measures.json``; returns its path.

    Args:
        folder: work folder of all stages; measuring the autoencoder needs its ``emoji.pt``.
        weights: what is measured: the shipped model, or another pipeline folder.
    """
    pipe, words, held = load_pipeline(weights), data.concepts(trained=True), data.held_out()
    out = folder / "evaluate" / identity(weights)
    pairs = [caption(words[name], style) for name in words for style in data.STYLES if (name, style) not in held]
    seen = [(pairs[i % len(pairs)], i // len(pairs)) for i in range(IMAGES)]
    unseen = [(caption(words[name], style), seed) for name, style in sorted(held) for seed in range(HELD_OUT_SEEDS)]
    features, captions = real()
    generated = Generated.by(pipe, weights, out, STEPS, GUIDANCE)
    x, y = generated.features(seen), generated.features(unseen)
    training = features[[captions.index(prompt) for prompt in pairs]]
    shown = [(pairs[row], 0) for row in measures.to_be_named(pairs)]
    large = measures.enlarged(generated.images(shown), 2)
    measures.name_sheet(out, large, [prompt for prompt, _ in shown], measures.hundred(), columns=8)
    found = {
        "model": identity(weights),
        "seconds per image": generated.seconds("a noto apple"),
        "vae psnr": reconstruction(folder, pipe.vae),
        "seen": measures.quality(x, training) | retrieval(x, seen, features, captions),
        "held out": retrieval(y, unseen, features, captions),
        "instrument": instrument(out / "instrument", [f"model={weights}"]),
    }
    return measures.write(out, found)


def real() -> tuple[Tensor, list[str]]:
    """(n, 1280) features of the real images, and their captions."""
    with safe_open(REAL["emoji"], framework="pt") as opened:
        return opened.get_tensor("features").float(), json.loads(opened.metadata()["captions"])


def retrieval(x: Tensor, samples: list[tuple[str, int]], features: Tensor, captions: list[str]) -> dict[str, Any]:
    """:func:`.measures.retrieval` beside the one real image that every caption has."""
    prompts = [prompt for prompt, _ in samples]
    each = list(dict.fromkeys(prompts))
    return measures.retrieval(x, prompts, features[[captions.index(prompt) for prompt in each]], each)


def reconstruction(folder: Path, autoencoder: Any) -> float:  # noqa: ANN401
    """PSNR in dB on the 100 images that the autoencoder never saw."""
    held = vae.to_float(vae.held_out(data.load(folder).images))
    return psnr(held, reconstruct(autoencoder, held))
