"""Outputs that pixels cannot hold: an image to look at, and what was measured in a chunk of text of the same PNG file."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..reading import parse_json

CHUNK = "mergekit_diff"


def with_record(image: Image.Image, record: Any) -> bytes:  # noqa: ANN401
    """A PNG file with plain data in it."""
    data, info = io.BytesIO(), PngInfo()
    info.add_text(CHUNK, json.dumps(record), zip=True)
    image.save(data, format="PNG", pnginfo=info)
    return data.getvalue()


def record_of(path: Path) -> Any:  # noqa: ANN401
    """The data in a file that :func:`with_record` made."""
    with Image.open(path, formats=("PNG",)) as image:
        image.load()
        return parse_json(image.text[CHUNK])  # pyright: ignore[reportAttributeAccessIssue]
