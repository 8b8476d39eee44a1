"""Height maps."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .frames import Frames
from .task import OnStepEnd, Task

LEVELS = 65535
PROMPT = re.compile(r"^difficulty (0(?:\.\d+)?|1(?:\.0+)?)$")


@dataclass(frozen=True)
class Field(Task):
    """Height maps of a difficulty. Outputs are (h, w) tensors in [-1, 1].

    A file is a grey PNG of 16 bits a pixel. Metrics take heights on the scale of 8-bit images, so that the whole range, 2, is 255
    grey levels in PSNR and SSIM too, but in steps of 1/257; rounding alone gives a PSNR of about 107 dB.
    """

    name = "field"
    noun = "height map"
    suffix = ".field.png"
    metrics = ("relief", "psnr", "ssim", "detail")
    primary = "relief"
    defaults: ClassVar[Mapping[str, Any]] = {"steps": 1, "prompts": "terrain-16", "merging": {"share": []}}
    fixed: ClassVar[Mapping[str, Any]] = {"guidance": 1.0, "frames": None, "size": None, "scheduler": None, "costs": False}
    about = "A consistency model makes a height map from noise in few steps, as a grid of tokens."

    def generate(
        self,
        pipe: Any,  # noqa: ANN401
        prompt: str,
        seed: int,
        *,
        steps: int,
        guidance: float = 1.0,
        size: tuple[int, int] | tuple[None, None] = (None, None),
        frames: int | None = None,
        on_step_end: OnStepEnd,
    ) -> Tensor:
        """One height map.

        Raises:
            RuntimeError: it has heights that are not numbers.
        """
        draw = torch.Generator().manual_seed(seed)
        output = pipe(difficulty(prompt), generator=draw, num_inference_steps=steps, callback_on_step_end=on_step_end)
        if output.isnan().any():
            raise RuntimeError(f"the {self.noun} has heights that are not numbers")
        return output

    def check_prompt(self, prompt: str) -> None:
        """A prompt says a difficulty."""
        difficulty(prompt)

    def encode(self, output: Tensor) -> bytes:
        """A grey PNG file of 16 bits a pixel, black for -1."""
        data = io.BytesIO()
        Image.fromarray(_levels(output).astype(np.uint16)).save(data, format="PNG")
        return data.getvalue()

    def read(self, path: Path) -> Tensor:
        """(1, h, w) float64 in [0, 255]."""
        with Image.open(path, formats=("PNG",)) as image:
            return _measured(np.asarray(image))

    def as_tensor(self, output: Tensor) -> Tensor:
        """(1, h, w) float64 in [0, 255], rounded as in the file."""
        return _measured(_levels(output))

    def frames(self, output: Tensor) -> Frames:
        """A grey image of 8 bits a pixel, the upper ones of the file's."""
        return [Image.fromarray((_levels(output) // 256).astype(np.uint8)).convert("RGB")]


def difficulty(prompt: str) -> float:
    """What a prompt says.

    Raises:
        ValueError: it says something else.

    >>> difficulty("difficulty 0.25")
    0.25
    """
    if (found := PROMPT.match(prompt)) is None:
        raise ValueError(f"prompts: expected 'difficulty X' with X from 0 to 1, such as 'difficulty 0.25', got {prompt!r}")
    return float(found[1])


def _levels(output: Tensor) -> np.ndarray:
    """(h, w) whole numbers from 0 to 65535 for heights from -1 to 1."""
    return ((output.double().cpu().clamp(-1, 1) + 1) / 2 * LEVELS).round().numpy().astype(np.int64)


def _measured(levels: np.ndarray) -> Tensor:
    return torch.from_numpy(levels.astype(np.float64))[None] * (255 / LEVELS)


FIELD = Field()
