"""Stage ``evaluate`` of ``emoji-video``: the measures of the images, on frames, and a sheet of motions to name.

Generated frames are compared with those of real videos that have the same captions, drawn anew.
"""

import random
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from ....metrics import feature
from ... import identity, load_pipeline, task_of
from .. import measures
from ..flux import data
from ..generated import Generated
from ..instrument import refusal
from ..vae import psnr, reconstruct
from .motions import FRAMES, MOTIONS
from .scenes import Scene, scenes, videos
from .transformer import GUIDANCE, STEPS_OF_A_VIDEO
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
    pipe, cutouts = load_pipeline(str(weights)), data.load(folder)
    out = folder / "evaluate" / identity(str(weights))
    generated = generated_by(pipe, weights, out)
    seen = scenes(data.pairs(), VIDEOS, _seeded(0))
    unseen = scenes(data.pairs(held_out=True), HELD_OUT, _seeded(1))
    shown = to_be_named(seen)
    of_sheet = as_videos(generated.images([samples(seen)[row] for row in shown]))
    measures.name_sheet(out, of_sheet, [seen[row].motion for row in shown], MOTIONS, columns=1)
    held = held_out(cutouts.images)
    found = {
        "model": identity(str(weights)),
        "seconds per video": generated.seconds("a noto apple sliding left on blue"),
        "vae psnr": psnr(held, reconstruct(pipe.vae, held)),
        "seen": _compare(generated, cutouts, seen, quality=True),
        "held out": _compare(generated, cutouts, unseen, quality=False),
        "instrument": {"skipped": refusal(pipe) or "studies have no task for videos"},
    }
    return measures.write(out, found)


def generated_by(pipe: Any, weights: Path, folder: Path) -> Generated:  # noqa: ANN401
    """The videos of a pipeline in a folder, made as the model's own record says, each kept as a strip of its frames."""
    call = {"num_inference_steps": STEPS_OF_A_VIDEO, "output_type": "pt"} | task_of(str(weights)).call.keywords(GUIDANCE)

    def generate(prompts: list[str], generators: list[torch.Generator]) -> list[Image.Image]:
        return [as_strip(video) for video in pipe(prompts, generator=generators, **call).frames]

    return Generated(folder, generate, (STEPS_OF_A_VIDEO, GUIDANCE), BATCH)


def as_strip(video: Tensor) -> Image.Image:
    """(F, 3, H, W) frames in [0, 1] side by side."""
    pixels = (rearrange(video, "f c h w -> h (f w) c").clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.numpy())


def as_videos(strips: Tensor) -> Tensor:
    """(n, 3, H, F W) strips of nine frames to (n, 3, F, H, W)."""
    return rearrange(strips, "n c h (f w) -> n c f h w", f=FRAMES)


def samples(drawn: list[Scene]) -> list[tuple[str, int]]:
    """Caption and seed of every scene's video; the seeds differ, so that equal scenes have different videos."""
    return [(str(scene), row) for row, scene in enumerate(drawn)]


def to_be_named(drawn: list[Scene]) -> list[int]:
    """Rows of scenes for a sheet, in random order: as many of every motion."""
    order = random.Random(0)
    rows = [row for motion in MOTIONS for row in [i for i, scene in enumerate(drawn) if scene.motion == motion][:NAMED_EACH]]
    return order.sample(rows, len(rows))


def _compare(generated: Generated, cutouts: data.Cutouts, drawn: list[Scene], *, quality: bool) -> dict[str, Any]:
    """Measures of some of the frames of scenes' videos, beside those of their real videos."""
    real = ((videos(cutouts, drawn, _seeded(2)) + 1) * 127.5).round().to(torch.uint8)
    x, y = (_features(each) for each in (as_videos(generated.images(samples(drawn))), real))
    captions = [scene.foreground() for scene in drawn for _ in range(0, FRAMES, EVERY)]
    found = measures.retrieval(x, captions, y, captions)
    return (measures.quality(x, y) if quality else {}) | found


def _features(shown: Tensor) -> Tensor:
    """(m, 1280) features of every second frame of (n, 3, F, H, W) uint8 videos, video by video."""
    return feature.features(shown[:, :, ::EVERY].transpose(1, 2).flatten(0, 1))


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
