"""Which tokens were merged with each other, drawn over the image."""

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SIDE = 384
TINT = 0.6
FIRST_HUE, GOLDEN = 0.55, 0.618034


def draw_map(image: Image.Image, one_map: Mapping[str, Any], side: int = SIDE) -> Image.Image:
    """The image with every merged group in a colour of its own, outlined, and a dot on the token that represents it.

    Tokens that were not merged show the plain image.

    Args:
        image: any size.
        one_map: grid, assign and rep, as the run folder keeps them.
        side: of the longer edge of the result, in pixels, about.
    """
    rows, columns = one_map["grid"][-2:]
    cell = max(4, side // max(rows, columns))
    groups = np.array(one_map["assign"])[: rows * columns].reshape(rows, columns)
    merged = np.bincount(groups.ravel())[groups] > 1
    scaled = image.convert("RGB").resize((columns * cell, rows * cell), Image.Resampling.BICUBIC)
    square = np.ones((cell, cell, 1))
    grey = np.array(scaled.convert("L"), dtype=float)[..., None]  # so that the image does not change a group's colour
    tinted = grey * (1 - TINT) + np.kron(_colours(groups), square) * TINT
    drawn = Image.fromarray(np.where(np.kron(merged[..., None], square), tinted, np.array(scaled)).astype(np.uint8))
    _outline(ImageDraw.Draw(drawn), groups, merged, cell)
    _dots(ImageDraw.Draw(drawn), one_map["rep"], merged, cell)
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
        if r < len(merged) and merged[r, c]:
            x, y = c * cell + cell // 2, r * cell + cell // 2
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill="white", outline="black")
