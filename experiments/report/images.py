"""The images or videos of a page and its merge maps, each embedded once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..reading import inside
from ..results.images import open_frames, spread
from ..results.row import Row
from ..results.run import Run
from ..tasks.frames import in_a_row
from .embedding import png, uri, webp
from .merge_map import draw_maps

PROMPTS, IMAGES = 24, 480
"""At most this many prompts and images, or frames, are shown; the table counts all, and the run folder has them."""
WEIGHT, SIDE = 2_500_000, 256
"""If the files weigh more than this together, in bytes, the page shows them with this longer side, lossy."""
FRAMES, PLANES = 32, 8
"""At most this many frames of a video are shown, and of a merge map."""


@dataclass(frozen=True)
class Grid:
    """Images of the page, a row for every prompt.

    Args:
        lines: a prompt and its images, each with cell, base, mark, note, number of frames, shape, and the image as a data URI; a
            video is a film, its frames below each other.
        shrunk: whether the images are smaller than the files, and lossy.
        frames: of a film; 1 where all are images.
        total: frames of a video.
    """

    lines: list[dict[str, Any]]
    shrunk: bool
    frames: int
    total: int


def grid(run: Run) -> Grid:
    """For the first prompts, at seed 0, the image of every cell, the bases first."""
    by_prompt: dict[str, list[Row]] = {row.prompt: [] for row in run.rows if row.seed == 0}
    for rows in run.cells.values():
        for row in rows:
            if row.seed == 0:
                by_prompt[row.prompt].append(row)
    total = max((len(open_frames(run.folder / row.image)) for row in next(iter(by_prompt.values()), [])), default=1)
    frames = min(FRAMES, total)
    prompts = list(by_prompt)[: max(1, min(PROMPTS, IMAGES // (frames * len(run.cells))))]
    files = [run.folder / row.image for prompt in prompts for row in by_prompt[prompt]]
    shrunk = sum(file.stat().st_size for file in files) > WEIGHT
    lines = [{"prompt": prompt, "images": [_image(run, row, shrunk) for row in by_prompt[prompt]]} for prompt in prompts]
    return Grid(lines, shrunk, frames, total)


def maps(run: Run) -> list[dict[str, Any]]:
    """The merge maps of every cell that has them, drawn over its image."""
    cells = []
    for cell, merged in run.maps.items():
        frames = open_frames(inside(run.folder, merged["image"]))
        shown = {"mark": run.marks[cell], "prompt": merged["prompt"], "sites": merged["sites"]}
        cells.append(shown | {"cell": cell, "maps": [_map(frames, one) for one in merged["maps"]]})
    return cells


def map_strip(frames: Sequence[Image.Image], one: Mapping[str, Any]) -> Image.Image:
    """A merge map over an image; over a video, those of the planes of its grid, or of some, in a row."""
    planes = min(PLANES, one["grid"][0]) if len(one["grid"]) == 3 else 1
    drawn = draw_maps(spread(frames, planes), one)
    return drawn[0] if len(drawn) == 1 else in_a_row(drawn, SIDE)


def _image(run: Run, row: Row, shrunk: bool) -> dict[str, Any]:
    file = run.folder / row.image
    frames = spread(open_frames(file), FRAMES)  # also where bytes are embedded as they are: a broken file must not reach the page
    if shrunk:
        data = webp(frames, SIDE)
    else:
        data = uri("png", file.read_bytes()) if len(frames) == 1 else png(frames)
    shape = " / ".join(map(str, frames[0].size))
    shown = {"cell": row.cell, "base": run.base_of(row.cell) or row.cell, "mark": run.marks[row.cell], "note": _note(row)}
    return shown | {"frames": len(frames), "shape": shape, "data": data}


def _note(row: Row) -> str:
    psnr = row.metrics.get("psnr")
    if psnr is None:
        return ""
    return "same as the base" if math.isinf(psnr) else f"PSNR {psnr:.1f} dB"


def _map(frames: Sequence[Image.Image], one: Mapping[str, Any]) -> dict[str, Any]:
    """A map with its numbers, as the page shows it."""
    size, drawn = " x ".join(map(str, one["grid"])), map_strip(frames, one)
    return {"stage": one["stage"], "site": one["site"], "role": one["role"].replace("_", " "), "grid": size,
            "tokens": len(one["assign"]), "kept": len(one["rep"]), "long": drawn.width > 2 * drawn.height,
            "data": webp([drawn])}  # fmt: skip
