"""Vision transformers: their features, and a map that is read off them."""

import base64
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from .frames import Frames
from .record import record_of, with_record
from .task import ONCE, OnStepEnd, Task

PROMPT = re.compile(r"^view ([1-9]\d?)$")
PHOTO = "grace_hopper.jpg"
"""Of Grace Hopper, by the US Navy, in the public domain; it comes with matplotlib."""
PIXELS, SMALLEST = 224, 256
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Seen:
    """What a model makes of an image.

    Args:
        tokens: (N, C) its last features, that of the class token first.
        saliency: (h, w) in [0, 1], how much the eye is drawn to each place.
    """

    tokens: Tensor
    saliency: Tensor


@dataclass(frozen=True)
class Features(Task):
    """Features of views of a photograph, each a square that is cut out of it. Outputs are :class:`Seen`, rounded to 16 bits.

    A file shows the saliency, white for 1; the numbers are in a chunk of text.
    """

    name = "features"
    noun = "map"
    suffix = ".features.png"
    metrics = ("cosine", "saliency", "overlap")
    primary = "cosine"
    defaults: ClassVar[Mapping[str, Any]] = {"prompts": "views-16", "merging": {"share": []}}
    fixed: ClassVar[Mapping[str, Any]] = ONCE
    about = "A vision transformer processes an image as a grid of tokens."

    @torch.no_grad()
    def generate(
        self,
        pipe: Any,  # noqa: ANN401
        prompt: str,
        seed: int = 0,
        *,
        steps: int = 1,
        guidance: float = 1.0,
        size: tuple[int, int] | tuple[None, None] = (None, None),
        frames: int | None = None,
        on_step_end: OnStepEnd | None = None,
    ) -> Seen:
        """The features of a view; nothing in them is random, so that the seed decides nothing."""
        pixels = normalized(view(prompt))[None].to(pipe.device, pipe.dtype)
        tokens = pipe.transformer(pixel_values=pixels).last_hidden_state
        return Seen(tokens[0].half().float().cpu(), pipe.saliency(tokens)[0].half().float().cpu())

    def check_prompt(self, prompt: str) -> None:
        """A prompt names a view."""
        _number(prompt)

    def encode(self, output: Seen) -> bytes:
        """A PNG file."""
        return with_record(self.frames(output)[0], {name: _text(value) for name, value in vars(output).items()})

    def read(self, path: Path) -> Seen:
        """The features and the map."""
        return Seen(**{name: _tensor(*value) for name, value in record_of(path).items()})

    def as_tensor(self, output: Seen) -> Seen:
        """Itself; it is rounded already."""
        return output

    def frames(self, output: Seen) -> Frames:
        """The map alone, in grey."""
        return [Image.fromarray((output.saliency * 255).round().numpy().astype(np.uint8)).convert("RGB")]


def view(prompt: str) -> Image.Image:
    """A square of the photograph, at a place and of a size that its number decides, of ``PIXELS`` pixels.

    Raises:
        ValueError: it has no number.
    """
    draw, photo = random.Random(_number(prompt)), _photo()
    side = draw.randint(SMALLEST, photo.width)
    left, top = draw.randint(0, photo.width - side), draw.randint(0, photo.height - side)
    return photo.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC, (left, top, left + side, top + side))


def normalized(image: Image.Image) -> Tensor:
    """(3, h, w) with the mean and deviation of ImageNet's images taken out."""
    x = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 255
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]


def upsampled(logits: Tensor, pixels: int = PIXELS) -> Tensor:
    """(B, 1, h, w) logits of a map to (B, pixels, pixels) in [0, 1]."""
    return F.interpolate(logits, size=(pixels, pixels), mode="bilinear").sigmoid()[:, 0]


def _number(prompt: str) -> int:
    if (found := PROMPT.match(prompt)) is None:
        raise ValueError(f"prompts: expected 'view N' with N from 1 to 99, got {prompt!r}")
    return int(found[1])


@cache
def _photo() -> Image.Image:
    import matplotlib

    with Image.open(Path(matplotlib.get_data_path()) / "sample_data" / PHOTO) as image:
        return image.convert("RGB")


def _text(value: Tensor) -> tuple[list[int], str]:
    """Shape, and numbers of 16 bits as text."""
    return list(value.shape), base64.b64encode(value.numpy().astype("<f2").tobytes()).decode()


def _tensor(shape: list[int], text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f2").astype(np.float32).reshape(shape))


FEATURES = Features()
