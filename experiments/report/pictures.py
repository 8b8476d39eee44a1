"""The pictures and merge maps of a page, each embedded once."""

import base64
import io
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..results.contents import Contents, Row
from .merge_map import draw_map

PROMPTS, PICTURES = 24, 480
"""So many prompts and pictures are shown at most; all stand in the table and on the disk."""
WEIGHT, SIDE, QUALITY = 2_500_000, 256, 80
"""Pictures that weigh more than this together, in bytes, are shown at this longer side, as WebP of this quality."""


@dataclass(frozen=True)
class Shown:
    """What the grid shows.

    Args:
        lines: a prompt and its pictures, a line each: cell, its base, mark, note and data, the picture as a data URI.
        cells: names of the cells of all lines.
        shrunk: whether the pictures are smaller than the files, and lossy.
    """

    lines: list[dict[str, Any]]
    cells: list[str]
    shrunk: bool


def grid(contents: Contents) -> Shown:
    """For the first prompts, at the first seed, the picture of every cell, the bases first."""
    by_prompt: dict[str, list[Row]] = {}
    order = list(contents.cells)
    for row in sorted(contents.rows, key=lambda row: order.index(row["cell"])):
        if row["seed"] == 0:
            by_prompt.setdefault(row["prompt"], []).append(row)
    prompts = list(dict.fromkeys(row["prompt"] for row in contents.rows if row["prompt"] in by_prompt))
    prompts = prompts[: max(1, min(PROMPTS, PICTURES // len(order)))]
    files = [contents.folder.path / row["image"] for prompt in prompts for row in by_prompt[prompt]]
    shrunk = sum(file.stat().st_size for file in files) > WEIGHT
    lines = [{"prompt": prompt, "pictures": [_picture(contents, row, shrunk) for row in by_prompt[prompt]]} for prompt in prompts]
    return Shown(lines, order, shrunk)


def maps(contents: Contents) -> list[dict[str, Any]]:
    """The merge maps of every cell that has them, drawn over its picture."""
    found = []
    for cell, kept in contents.maps.items():
        picture = Image.open(contents.folder.path / kept["image"])
        shown = {"mark": contents.marks[cell], "prompt": kept["prompt"], "sites": kept["sites"]}
        found.append(shown | {"cell": cell, "maps": [_drawn(picture, one) for one in kept["maps"]]})
    return found


def _picture(contents: Contents, row: Row, shrunk: bool) -> dict[str, Any]:
    file = contents.folder.path / row["image"]
    data = _webp(Image.open(file), SIDE) if shrunk else _uri("png", file.read_bytes())
    base = contents.base_of(row["cell"]) or row["cell"]
    return {"cell": row["cell"], "base": base, "mark": contents.marks[row["cell"]], "note": _note(row), "data": data}


def _note(row: Row) -> str:
    if "psnr" not in row:
        return ""
    return "same as the base" if row["psnr"] == "inf" else f"PSNR {row['psnr']:.1f} dB"


def _drawn(picture: Image.Image, one: dict[str, Any]) -> dict[str, Any]:
    """A map with its numbers, as the page shows it."""
    size = " x ".join(map(str, one["grid"]))
    return {"stage": one["stage"], "site": one["site"], "role": one["role"].replace("_", " "), "grid": size,
            "tokens": len(one["assign"]), "kept": len(one["rep"]), "data": _webp(draw_map(picture, one))}  # fmt: skip


def _webp(picture: Image.Image, side: int | None = None) -> str:
    data, small = io.BytesIO(), picture.convert("RGB")
    if side is not None:
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
    small.save(data, format="WEBP", quality=QUALITY)
    return _uri("webp", data.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()
