"""Moves points apart and labels them without overlaps."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

SIZE = 8.0
"""Font size, points."""
ROOM = 5.0
"""Half a marker and its edge, points."""
At = tuple[float, float]


def place(axes: Axes, points: Sequence[At], texts: Sequence[str], lines: Sequence[tuple[At, At]]) -> None:
    """Label every point at the nearest free place; a thin line connects a label that had to go far.

    Args:
        axes: its limits are final.
        points: in the axes' units.
        texts: a label for every point.
        lines: ends of vertical or horizontal lines that labels must not cover, in the axes' units.
    """
    at = _in_points(axes, np.array(points))
    ends = _in_points(axes, np.array(lines).reshape(-1, 2)).reshape(-1, 2, 2)
    taken = np.concatenate([boxes(at, 2 * ROOM, 2 * ROOM), np.concatenate([ends.min(1) - 1, ends.max(1) + 1], axis=1)])
    frame = _in_points(axes, axes.transAxes.transform([[0, 0], [1, 1]]), shown=True).ravel()
    for own, point, text in zip(at, points, texts, strict=True):
        width, height = 0.62 * SIZE * len(text) + 2, SIZE + 1
        offsets = _offsets(width, height)
        free = boxes(own + offsets, width, height)
        hidden = overlap(free, taken).sum(1) + width * height - overlap(free, frame[None])[:, 0]
        gaps = _gaps(free, at)
        own_gap = _gaps(free, own[None])[:, 0]
        claimed = (gaps < own_gap[:, None] + ROOM / 2).sum(1) - 1  # nearer to another point, so read as its label
        best = int((100 * (hidden + 100 * claimed) + own_gap).argmin())
        taken = np.concatenate([taken, free[best : best + 1]])
        thread = {"arrowstyle": "-", "lw": 0.4, "alpha": 0.6} if own_gap[best] > 2 * ROOM else None
        put = {"textcoords": "offset points", "ha": "center", "va": "center", "fontsize": SIZE, "arrowprops": thread}
        axes.annotate(text, point, (offsets[best][0], offsets[best][1]), **put)


def apart(axes: Axes, points: Sequence[At]) -> list[At]:
    """The points, with those that would hide an earlier one moved to the right until both are visible.

    Args:
        axes: its limits are final.
        points: in the axes' units.
    """
    seen = np.empty((0, 2))
    for point in _in_points(axes, np.array(points)):
        while (np.abs(seen - point) < 1.6 * ROOM).all(1).any():
            point = point + np.array([1.6 * ROOM, 0])
        seen = np.concatenate([seen, point[None]])
    moved = axes.transData.inverted().transform(seen * axes.get_figure(root=True).dpi / 72)  # type: ignore[union-attr]
    return [(float(x), float(y)) for x, y in moved]


def boxes(middles: np.ndarray, width: float, height: float) -> np.ndarray:
    """(n, 2) middles to (n, 4): left, bottom, right, top."""
    half = np.array([width, height]) / 2
    return np.concatenate([middles - half, middles + half], axis=1)


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, 4) and (m, 4) boxes to (n, m): the area of their intersection."""
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    return sides.clip(min=0).prod(-1)


def _offsets(width: float, height: float) -> np.ndarray:
    """(n, 2): middles of a label around its point, near ones first."""
    turns = math.pi * np.array([1, 7, 15, 9, 4, 12, 0, 8, 2, 6, 14, 10]) / 8
    rounds = [(ROOM + width / 2 + 8 * i, ROOM + height / 2 + 8 * i) for i in range(8)]
    return np.concatenate([np.stack([a * np.cos(turns), b * np.sin(turns)], axis=1) for a, b in rounds])


def _gaps(free: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(n, 4) boxes and (m, 2) points to (n, m): from a point to the nearest place of a box."""
    out = np.maximum(free[:, None, :2] - points[None], points[None] - free[:, None, 2:]).clip(min=0)
    return np.linalg.norm(out, axis=-1)


def _in_points(axes: Axes, places: np.ndarray, shown: bool = False) -> np.ndarray:
    """Data units, or pixels where ``shown``, to points of the figure."""
    pixels = places if shown else axes.transData.transform(places)
    return np.asarray(pixels) * 72 / axes.get_figure(root=True).dpi  # type: ignore[union-attr]
