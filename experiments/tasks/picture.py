"""Text to image."""

import io
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

FORMATS = ("PNG", "JPEG", "WEBP")
"""Of files, whatever their names say: Pillow hands one of the others to another program."""


@dataclass(frozen=True)
class Picture(Task):
    """Images of a text-to-image pipeline. Outputs are PIL images; files are PNG, so that an 8-bit image loses nothing."""

    name = "picture"
    noun = "image"
    suffix = ".png"
    metrics = ("psnr", "ssim", "feature")
    primary = "feature"
    fixed: ClassVar[Mapping[str, Any]] = {"frames": None}

    def generate(
        self,
        pipe: Any,  # noqa: ANN401
        prompt: str,
        seed: int,
        *,
        steps: int,
        guidance: float,
        size: tuple[int, int] | tuple[None, None],
        frames: int | None = None,
        on_step_end: OnStepEnd,
    ) -> Image.Image:
        """One image; it has no frames to be asked for."""
        height, width = size
        asked = {"num_inference_steps": steps, "height": height, "width": width}
        return self._called(pipe, prompt, seed, guidance, on_step_end, **asked).images[0]

    def encode(self, output: Image.Image) -> bytes:
        """A PNG file."""
        data = io.BytesIO()
        output.save(data, format="PNG")
        return data.getvalue()

    def read(self, path: Path) -> Tensor:
        """(3, H, W) uint8 from a PNG, JPEG or WebP file."""
        with Image.open(path, formats=FORMATS) as image:
            return self.as_tensor(image)

    def as_tensor(self, output: Image.Image) -> Tensor:
        """(3, H, W) uint8."""
        return torch.from_numpy(np.array(output.convert("RGB"))).permute(2, 0, 1)

    def frames(self, output: Image.Image) -> Frames:
        """The image alone."""
        return [output]


PICTURE = Picture()
