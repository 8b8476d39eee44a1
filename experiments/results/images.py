"""The images and videos of a run folder: whether a file is whole, and opening it with an error that names it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageSequence

BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for a file that is cut off or is not an image: SyntaxError is a chunk with a wrong checksum."""
FORMATS = ("PNG",)
"""What runs write. By content Pillow would take others too, one of which it hands to another program."""
PIXELS = 2**28
"""Of all frames of a file together, at most; 81 frames of 1280 x 720 are 2**26."""
Each = TypeVar("Each")


def is_whole(path: Path) -> bool:
    """Whether a PNG file, animated or not, has all its chunks and each has the right checksum.

    Decodes no pixel: 0.1 ms for 128 x 128.
    """
    try:
        _verify(path)
    except BROKEN:
        return False
    return True


def open_frames(path: Path) -> list[Image.Image]:
    """The decoded frames of a video of a run, in RGB; of an image, itself.

    Raises:
        ValueError: the file is not whole; names it.
    """
    try:
        _verify(path)
        with Image.open(path, formats=FORMATS) as image:
            return [visible(frame) for frame in ImageSequence.Iterator(image)]
    except BROKEN as error:
        raise ValueError(f"{path}: expected a whole image, got: {error}; the command of the run generates it again") from None


def visible(frame: Image.Image) -> Image.Image:
    """In RGB; of 16 bits a pixel, the upper 8."""
    return (Image.fromarray((np.asarray(frame) >> 8).astype(np.uint8)) if frame.mode.startswith("I;16") else frame).convert("RGB")


def spread(frames: Sequence[Each], most: int) -> list[Each]:
    """All of some frames, or ``most`` of them at equal distances, the first and the last included; of one, the first.

    >>> spread("abcdefghi", 3), spread("ab", 3)
    (['a', 'e', 'i'], ['a', 'b'])
    """
    n = len(frames)
    return list(frames) if n <= most else [frames[round(i * (n - 1) / max(1, most - 1))] for i in range(most)]


def _verify(path: Path) -> None:
    with Image.open(path, formats=FORMATS) as image:
        if (pixels := image.width * image.height * getattr(image, "n_frames", 1)) > PIXELS:
            raise ValueError(f"{pixels} pixels, more than {PIXELS}")
        image.verify()
