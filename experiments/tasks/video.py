"""Text to video."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageSequence
from torch import Tensor

from .picture import PICTURE, SIDE
from .task import OnStepEnd, Task

Frames = Sequence[Image.Image]
MILLISECONDS = 125
"""How long a viewer shows a frame. It decides nothing else."""


@dataclass(frozen=True)
class Video(Task):
    """Videos of a text-to-video pipeline. Outputs are sequences of PIL images of one size.

    A file is an animated PNG: browsers play it, its 8-bit frames are exact, and the checksums of its chunks tell whether it is
    whole without decoding a frame.
    """

    name = "video"
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
        """An animated PNG file."""
        data, (first, *rest) = io.BytesIO(), [frame.convert("RGB") for frame in output]
        blend = [i % 2 for i in range(len(output))]  # alike for opaque frames; Pillow drops a frame that differs in nothing
        first.save(data, format="PNG", save_all=True, append_images=rest, duration=MILLISECONDS, blend=blend)
        return data.getvalue()

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

    def of_frames(self, frames: Frames) -> Frames:
        """All of them."""
        return frames

    def side_by_side(self, outputs: Sequence[Frames], side: int = SIDE, gap: int = 8) -> Frames:
        """A video with the frames of several of equal length in a row, as those of :class:`.Picture`."""
        return [PICTURE.side_by_side(frames, side, gap) for frames in zip(*outputs, strict=True)]


VIDEO = Video()
