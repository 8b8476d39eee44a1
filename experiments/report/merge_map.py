"""Which tokens were merged with each other, drawn over the image, or over the frames of a video."""

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SIDE = 384
TINT = 0.6
TOKENS = 2**20
"""Of a map, at most; 81 frames of 1280 x 720 have 75,600 in Wan."""
FIRST_HUE, GOLDEN = 0.55, 0.618034


def draw_map(image: Image.Image, one_map: Mapping[str, Any], side: int = SIDE) -> Image.Image:
    """The image with every merged group in a colour of its own, outlined, and a dot on the token that represents it.

    Tokens that were not merged show the plain image.

    Args:
        image: any size.
        one_map: grid, assign and rep, as the run folder keeps them.
        side: of the longer edge of the result, in pixels, about.
    """
    return draw_maps([image], one_map, side)[0]


def draw_maps(frames: Sequence[Image.Image], one_map: Mapping[str, Any], side: int = SIDE) -> list[Image.Image]:
    """Some frames of a video as :func:`draw_map` draws one; a group that spans frames has its colour in all of them.

    Args:
        frames: at equal distances, the first and the last of the video included.
        one_map: as in ``draw_map``; of a grid (f, h, w), a frame shows the plane that covers it, of (h, w) all show the same.
        side: as in ``draw_map``.

    Raises:
        ValueError: not a map.
    """
    rows, columns = one_map["grid"][-2:]
    planes, rep = np.array(one_map["assign"]).reshape(-1, rows, columns), np.array(one_map["rep"])
    if not all(0 <= number < min(planes.size, TOKENS) for ends in (planes, rep) for number in (ends.min(), ends.max())):
        raise ValueError(f"expected a map of at most {TOKENS} tokens that names each by its number, got others")
    merged = np.bincount(planes.ravel())[planes] > 1
    drawn = []
    for k, frame in enumerate(frames):
        plane = covering(k, len(frames), len(planes))
        own = rep[rep // (rows * columns) == plane] % (rows * columns)
        drawn.append(_draw(frame, planes[plane], merged[plane], own.tolist(), side))
    return drawn


def covering(frame: int, frames: int, planes: int) -> int:
    """The plane of a grid that covers a frame; where planes are fewer, the first covers one frame, as autoencoders of videos do.

    >>> [covering(k, 9, 3) for k in range(9)]
    [0, 1, 1, 1, 1, 2, 2, 2, 2]
    """
    return 0 if frames == 1 else -(-frame * (planes - 1) // (frames - 1))


def _draw(image: Image.Image, groups: np.ndarray, merged: np.ndarray, rep: Sequence[int], side: int) -> Image.Image:
    rows, columns = groups.shape
    cell = max(4, side // max(rows, columns))
    scaled = image.convert("RGB").resize((columns * cell, rows * cell), Image.Resampling.BICUBIC)
    square = np.ones((cell, cell, 1))
    grey = np.array(scaled.convert("L"), dtype=float)[..., None]  # so that the image does not change a group's colour
    tinted = grey * (1 - TINT) + np.kron(_colours(groups), square) * TINT
    drawn = Image.fromarray(np.where(np.kron(merged[..., None], square), tinted, np.array(scaled)).astype(np.uint8))
    _outline(ImageDraw.Draw(drawn), groups, merged, cell)
    _dots(ImageDraw.Draw(drawn), rep, merged, cell)
    return drawn


def _colours(groups: np.ndarray) -> np.ndarray:
    """(rows, columns, 3): neighbours in number are far apart in hue."""
    count = int(groups.max()) + 1
    table = [colorsys.hsv_to_rgb((FIRST_HUE + i * GOLDEN) % 1, 0.85, 0.95) for i in range(count)]
    return 255 * np.array(table)[groups]


def _outline(draw: ImageDraw.ImageDraw, groups: np.ndarray, merged: np.ndarray, cell: int) -> None:
    rows, columns = groups.shape
    for r in range(rows):
        for c in range(columns):
            x, y = c * cell, r * cell
            if c and groups[r, c] != groups[r, c - 1] and (merged[r, c] or merged[r, c - 1]):
                draw.line((x, y, x, y + cell), fill="black")
            if r and groups[r, c] != groups[r - 1, c] and (merged[r, c] or merged[r - 1, c]):
                draw.line((x, y, x + cell, y), fill="black")


def _dots(draw: ImageDraw.ImageDraw, rep: Sequence[int], merged: np.ndarray, cell: int) -> None:
    columns, radius = merged.shape[1], max(1, cell // 6)
    for token in rep:
        r, c = divmod(token, columns)
        if merged[r, c]:
            x, y = c * cell + cell // 2, r * cell + cell // 2
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill="white", outline="black")
