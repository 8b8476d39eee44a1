"""Stage ``evaluate`` of ``emoji-video``: the measures of the images, on frames, and a sheet of motions to name.

Generated frames are compared with those of real videos that have the same captions, drawn anew.
"""

import random
from pathlib import Path
from typing import Any

from einops import rearrange
from PIL import Image
from torch import Tensor

from ....metrics import feature
from ... import identity, load_pipeline
from .. import cutouts, measures
from ..autoencoder import psnr, reconstruct
from ..generated import Generated
from ..instrument import refusal
from ..scenes import Scene, numbered, scenes, seeded
from ..sheets import to_bytes
from .motions import FRAMES, MOTIONS
from .samples import videos
from .transformer import VideoFlow
from .vae import held_out

VIDEOS, HELD_OUT = 100, 16
EVERY = 2  # frames between two that are measured: five of nine
NAMED_EACH = 2  # videos of every motion on the sheet
BATCH = 4


def evaluate(folder: Path, weights: Path) -> Path:
    """Measure everything, print it and write ``folder/evaluate/IDENTITY/measures.json``; returns its path.

    Args:
        folder: work folder of all stages, with the ``cutouts.pt`` of the stage ``data``.
        weights: the pipeline folder that is measured.
    """
    pipe, emoji = load_pipeline(str(weights)), cutouts.load(folder)
    out = folder / "evaluate" / identity(str(weights))
    steps, guidance = VideoFlow.sampling_steps, VideoFlow.guidance
    generated = Generated.by(pipe, str(weights), out, steps, guidance, images=as_strips, batch=BATCH, output_type="pt")
    seen = scenes(cutouts.pairs(), VIDEOS, seeded(0), MOTIONS)
    unseen = scenes(cutouts.pairs(held_out=True), HELD_OUT, seeded(1), MOTIONS)
    shown = to_be_named(seen)
    of_sheet = as_videos(generated.images([numbered(seen)[row] for row in shown]))
    measures.name_sheet(out, of_sheet, [str(seen[row].motion) for row in shown], MOTIONS, columns=1)
    held = held_out(emoji.images)
    found = {
        "model": identity(str(weights)),
        "seconds per video": generated.seconds("a noto apple sliding left on blue"),
        "vae psnr": psnr(held, reconstruct(pipe.vae, held)),
        "seen": _compare(generated, emoji, seen, quality=True),
        "held out": _compare(generated, emoji, unseen, quality=False),
        "instrument": {"skipped": refusal(pipe) or "studies have no task for videos"},
    }
    return measures.write(out, found)


def as_strips(output: Any) -> list[Image.Image]:  # noqa: ANN401
    """The videos of a pipeline's output, (n, F, 3, H, W) in [0, 1], each as an image of its frames side by side."""
    return [Image.fromarray(strip.numpy()) for strip in to_bytes(2 * rearrange(output.frames, "n f c h w -> n h (f w) c") - 1)]


def as_videos(strips: Tensor) -> Tensor:
    """(n, 3, H, F W) strips of nine frames to (n, 3, F, H, W)."""
    return rearrange(strips, "n c h (f w) -> n c f h w", f=FRAMES)


def to_be_named(drawn: list[Scene]) -> list[int]:
    """Rows of scenes for a sheet, in random order: as many of every motion."""
    order = random.Random(0)
    rows = [row for motion in MOTIONS for row in [i for i, scene in enumerate(drawn) if scene.motion == motion][:NAMED_EACH]]
    return order.sample(rows, len(rows))


def _compare(generated: Generated, emoji: cutouts.Cutouts, drawn: list[Scene], *, quality: bool) -> dict[str, Any]:
    """Measures of some of the frames of scenes' videos, beside those of their real videos."""
    real = to_bytes(videos(emoji, drawn, seeded(2)))
    x, y = (_features(each) for each in (as_videos(generated.images(numbered(drawn))), real))
    captions = [scene.foreground() for scene in drawn for _ in range(0, FRAMES, EVERY)]
    found = measures.retrieval(x, captions, y, captions)
    return (measures.quality(x, y) if quality else {}) | found


def _features(shown: Tensor) -> Tensor:
    """(m, 1280) features of every second frame of (n, 3, F, H, W) uint8 videos, video by video."""
    return feature.features(shown[:, :, ::EVERY].transpose(1, 2).flatten(0, 1))
