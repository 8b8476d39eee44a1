"""The images and merge maps of a page, each embedded once."""

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..results.images import open_image
from ..results.row import Row
from ..results.run import Run
from .merge_map import draw_map

PROMPTS, IMAGES = 24, 480
"""At most this many prompts and images are shown; the table counts all, and the run folder has them."""
WEIGHT, SIDE, QUALITY = 2_500_000, 256, 80
"""If the files weigh more than this together, in bytes, the page shows them with this longer side, as WebP of this quality."""


@dataclass(frozen=True)
class Grid:
    """Images of the page, a row for every prompt.

    Args:
        lines: a prompt and its images, each with cell, base, mark, note, and the image as a data URI.
        shrunk: whether the images are smaller than the files, and lossy.
    """

    lines: list[dict[str, Any]]
    shrunk: bool


def grid(run: Run) -> Grid:
    """For the first prompts, at seed 0, the image of every cell, the bases first."""
    by_prompt: dict[str, list[Row]] = {row.prompt: [] for row in run.rows if row.seed == 0}
    for rows in run.cells.values():
        for row in rows:
            if row.seed == 0:
                by_prompt[row.prompt].append(row)
    prompts = list(by_prompt)[: max(1, min(PROMPTS, IMAGES // len(run.cells)))]
    files = [run.folder / row.image for prompt in prompts for row in by_prompt[prompt]]
    shrunk = sum(file.stat().st_size for file in files) > WEIGHT
    lines = [{"prompt": prompt, "images": [_image(run, row, shrunk) for row in by_prompt[prompt]]} for prompt in prompts]
    return Grid(lines, shrunk)


def maps(run: Run) -> list[dict[str, Any]]:
    """The merge maps of every cell that has them, drawn over its image."""
    cells = []
    for cell, merged in run.maps.items():
        image = open_image(run.folder / merged["image"])
        shown = {"mark": run.marks[cell], "prompt": merged["prompt"], "sites": merged["sites"]}
        cells.append(shown | {"cell": cell, "maps": [_map(image, one) for one in merged["maps"]]})
    return cells


def _image(run: Run, row: Row, shrunk: bool) -> dict[str, Any]:
    file = run.folder / row.image
    image = open_image(file)  # also where the bytes are embedded as they are: a broken file must not reach the page
    data = _webp(image, SIDE) if shrunk else _uri("png", file.read_bytes())
    base = run.base_of(row.cell) or row.cell
    return {"cell": row.cell, "base": base, "mark": run.marks[row.cell], "note": _note(row), "data": data}


def _note(row: Row) -> str:
    psnr = row.metrics.get("psnr")
    if psnr is None:
        return ""
    return "same as the base" if math.isinf(psnr) else f"PSNR {psnr:.1f} dB"


def _map(image: Image.Image, one: Mapping[str, Any]) -> dict[str, Any]:
    """A map with its numbers, as the page shows it."""
    size = " x ".join(map(str, one["grid"]))
    return {"stage": one["stage"], "site": one["site"], "role": one["role"].replace("_", " "), "grid": size,
            "tokens": len(one["assign"]), "kept": len(one["rep"]), "data": _webp(draw_map(image, one))}  # fmt: skip


def _webp(image: Image.Image, side: int | None = None) -> str:
    data, small = io.BytesIO(), image.convert("RGB")
    if side is not None:
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
    small.save(data, format="WEBP", quality=QUALITY)
    return _uri("webp", data.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()
