"""Stages ``sheet`` and ``export``: videos from the last checkpoint, and the trained modules as an ordinary pipeline folder."""

from functools import partial
from pathlib import Path

import torch

from .. import flow
from .transformer import CALL, VideoFlow, name

MODEL = Path(__file__).parents[1] / "emoji-video"


def trained(folder: Path, frames: int) -> tuple[VideoFlow, int]:
    """The last checkpoint of a training, and its step.

    Raises:
        FileNotFoundError: the transformer was never trained with this many frames in ``folder``.
    """
    return flow.trained(partial(VideoFlow, folder, frames, rate=0.0), folder, name(frames))


def sheet(folder: Path, frames: int) -> Path:
    """Draw the sheet from the mean weights of the last checkpoint; returns its path."""
    module, step = trained(folder, frames)
    return module.draw(module.sheet(step))


def export(folder: Path, frames: int, target: Path = MODEL) -> Path:
    """Write the mean weights of the last checkpoint in fp16 as a pipeline folder; returns ``target``."""
    pipe = trained(folder, frames)[0].pipeline().to(torch.float16)
    pipe.save_pretrained(target, safe_serialization=True)
    CALL.write(target)
    return target
