"""Stages ``sheet`` and ``export``: images from the last checkpoint, and the trained modules as an ordinary pipeline folder."""

from pathlib import Path

import torch

from ..training import last_checkpoint
from .transformer import FlowTransformer, draw_sheet, name

MODEL = Path(__file__).parents[1] / "emoji-flux"


def trained(folder: Path, tokens: int) -> tuple[FlowTransformer, int]:
    """The last checkpoint of a training, and its step.

    Raises:
        FileNotFoundError: the transformer was never trained with this many tokens in ``folder``.
    """
    path = last_checkpoint(folder, name(tokens))
    if not path.exists():
        raise FileNotFoundError(f"expected a checkpoint of the stage transformer, got none: {path}")
    state = torch.load(path, weights_only=True)
    module = FlowTransformer(folder, tokens, steps=state["global_step"], rate=0.0)
    module.load_state_dict(state["state_dict"])
    return module.eval(), state["global_step"]


def sheet(folder: Path, tokens: int) -> Path:
    """Draw the sheet from the mean weights of the last checkpoint; returns its path."""
    module, step = trained(folder, tokens)
    return draw_sheet(module.pipeline(), tokens, folder / f"sheet-{tokens}-{step:06d}.png")


def export(folder: Path, tokens: int, target: Path = MODEL) -> Path:
    """Write the mean weights of the last checkpoint in fp16 as a pipeline folder; returns ``target``."""
    pipe = trained(folder, tokens)[0].pipeline().to(torch.float16)
    pipe.save_pretrained(target, safe_serialization=True)
    return target
