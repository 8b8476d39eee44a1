"""The images that an output is looked at as: one, or the frames of a video."""

import io
from collections.abc import Sequence

from PIL import Image

Frames = Sequence[Image.Image]
SIDE = 384
MILLISECONDS = 125
"""How long a viewer shows a frame. It decides nothing else."""


def in_a_row(images: Frames, side: int = SIDE, gap: int = 8) -> Image.Image:
    """Images in a row on white, each scaled to the height ``side``, ``gap`` pixels apart."""
    scaled = [x.convert("RGB").resize((round(x.width * side / x.height), side), Image.Resampling.BICUBIC) for x in images]
    row = Image.new("RGB", (sum(x.width for x in scaled) + gap * (len(scaled) - 1), side), "white")
    left = 0
    for image in scaled:
        row.paste(image, (left, 0))
        left += image.width + gap
    return row


def side_by_side(outputs: Sequence[Frames], side: int = SIDE, gap: int = 8) -> Frames:
    """Several outputs of equally many frames in one: their first frames in a row, then their second ones, and so on."""
    return [in_a_row(frames, side, gap) for frames in zip(*outputs, strict=True)]


def suffix(frames: Frames) -> str:
    """Of the file that :func:`encode` makes."""
    return ".png" if len(frames) == 1 else ".apng"


def encode(frames: Frames) -> bytes:
    """A PNG file, animated if there are several frames, which browsers play.

    Its 8-bit frames are exact, and the checksums of its chunks tell whether it is whole without decoding a frame.
    """
    data, (first, *rest) = io.BytesIO(), [frame.convert("RGB") for frame in frames]
    blend = [i % 2 for i in range(len(frames))]  # alike for opaque frames; Pillow drops a frame that differs in nothing
    film = {"save_all": True, "append_images": rest, "duration": MILLISECONDS, "blend": blend} if rest else {}
    first.save(data, format="PNG", **film)
    return data.getvalue()
