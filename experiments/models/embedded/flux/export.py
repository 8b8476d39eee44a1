"""Stages ``sheet`` and ``export``: images from the last checkpoint, and the trained modules as an ordinary pipeline folder."""

from functools import partial
from pathlib import Path

import torch

from .. import flow
from .transformer import CALL, FlowTransformer, name

MODEL = Path(__file__).parents[1] / "emoji-flux"


def trained(folder: Path, tokens: int) -> tuple[FlowTransformer, int]:
    """The last checkpoint of a training, and its step.

    Raises:
        FileNotFoundError: the transformer was never trained with this many tokens in ``folder``.
    """
    return flow.trained(partial(FlowTransformer, folder, tokens, rate=0.0), folder, name(tokens))


def sheet(folder: Path, tokens: int) -> Path:
    """Draw the sheet from the mean weights of the last checkpoint; returns its path."""
    module, step = trained(folder, tokens)
    return module.draw(module.sheet(step))


def export(folder: Path, tokens: int, target: Path = MODEL) -> Path:
    """Write the mean weights of the last checkpoint in fp16 as a pipeline folder; returns ``target``."""
    pipe = trained(folder, tokens)[0].pipeline().to(torch.float16)
    pipe.save_pretrained(target, safe_serialization=True)
    CALL.write(target)
    return target
