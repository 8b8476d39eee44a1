"""Stages ``sheet`` and ``export``: what the last checkpoint draws, and its mean weights as a pipeline folder in fp16."""

from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from .denoiser import Denoiser
from .flow import Flow
from .training import restore

EMBEDDED = Path(__file__).parent
MODEL = EMBEDDED / "emoji"
AnyFlow = TypeVar("AnyFlow", bound=Flow)


def export(folder: Path) -> Path:
    """Write the mean weights of ``folder``'s last checkpoint to the model folder of the package; returns it.

    Raises:
        FileNotFoundError: the denoiser was never trained in ``folder``.
    """
    module, _ = restore(lambda steps: Denoiser(folder, steps, small_steps=0), folder, "denoiser")
    module.pipeline().to(torch.float16).save_pretrained(MODEL, safe_serialization=True)
    return MODEL


def trained(kind: type[AnyFlow], folder: Path, size: int) -> tuple[AnyFlow, int]:
    """The last checkpoint of a transformer at one size of its outputs, and its step.

    Raises:
        FileNotFoundError: it was never trained at this size in ``folder``.
    """
    return restore(partial(kind, folder, size), folder, kind.phases[size].name)


def sheet(kind: type[Flow], folder: Path, size: int) -> Path:
    """Draw the sheet of the last checkpoint; returns its path."""
    module, step = trained(kind, folder, size)
    return module.draw(step)


def export_flow(kind: type[Flow], folder: Path, size: int, target: Path) -> Path:
    """Write the last checkpoint of a transformer as a pipeline folder with a record of how it is called; returns ``target``."""
    module, _ = trained(kind, folder, size)
    pipe = module.pipeline().to(torch.float16)
    pipe.vae.register_to_config(_name_or_path="")  # diffusers notes where it was read: a folder of the machine that trained
    pipe.save_pretrained(target, safe_serialization=True)
    kind.call.write(target)
    return target
