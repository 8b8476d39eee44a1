"""Images as data URIs, and videos as films: one image with all frames, which a page can step through in time with others."""

import base64
import io
from collections.abc import Sequence

from PIL import Image

QUALITY = 80


def film(frames: Sequence[Image.Image]) -> Image.Image:
    """Frames of one size below each other.

    >>> film([Image.new("RGB", (4, 3))] * 5).size
    (4, 15)
    """
    width, height = frames[0].size
    joined = Image.new("RGB", (width, height * len(frames)))
    for i, frame in enumerate(frames):
        joined.paste(frame, (0, i * height))
    return joined


def png(frames: Sequence[Image.Image]) -> str:
    """A film, exact."""
    data = io.BytesIO()
    film(frames).save(data, format="PNG", optimize=True)
    return uri("png", data.getvalue())


def webp(frames: Sequence[Image.Image], side: int | None = None) -> str:
    """A film, lossy; with ``side``, the longer side of a frame has at most so many pixels."""
    data, small = io.BytesIO(), [frame.convert("RGB") for frame in frames]
    if side is not None:
        small = [frame.copy() for frame in small]
        for frame in small:
            frame.thumbnail((side, side), Image.Resampling.LANCZOS)
    film(small).save(data, format="WEBP", quality=QUALITY)
    return uri("webp", data.getvalue())


def uri(kind: str, data: bytes) -> str:
    """The content of a file as text that a page can show."""
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()
