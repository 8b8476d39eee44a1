"""Text to video."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageSequence
from torch import Tensor

from .frames import Frames, encode
from .picture import PICTURE
from .task import OnStepEnd, Task


@dataclass(frozen=True)
class Video(Task):
    """Videos of a text-to-video pipeline. Outputs are sequences of PIL images of one size.

    A file is an animated PNG: browsers play it, its 8-bit frames are exact, and the checksums of its chunks tell whether it is
    whole without decoding a frame.
    """

    name = "video"
    noun = "video"
    suffix = ".apng"
    metrics = ("psnr", "ssim", "feature", "flicker")
    primary = "feature"

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
    ) -> Frames:
        """One video."""
        height, width = size
        asked = {"num_inference_steps": steps, "height": height, "width": width, "num_frames": frames}
        return self._called(pipe, prompt, seed, guidance, on_step_end, **asked).frames[0]

    def encode(self, output: Frames) -> bytes:
        """An animated PNG file, also of one frame."""
        return encode(output)

    def read(self, path: Path) -> Tensor:
        """(F, 3, H, W) uint8."""
        with Image.open(path, formats=("PNG",)) as image:
            return self.as_tensor([frame.convert("RGB") for frame in ImageSequence.Iterator(image)])

    def as_tensor(self, output: Frames) -> Tensor:
        """(F, 3, H, W) uint8."""
        return torch.stack([PICTURE.as_tensor(frame) for frame in output])

    def frames(self, output: Frames) -> Frames:
        """All of them."""
        return output


VIDEO = Video()
