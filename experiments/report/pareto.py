"""Quality against cost, with the cells that no other cell beats in both."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

from markupsafe import Markup
from matplotlib.ticker import LogLocator, NullLocator

from ..metrics import Metric
from ..results.comparison import RATIO
from ..results.contents import Contents, Interval
from . import labels
from .figures import INK, MARKERS, colours, figure, label_axes, markers, strategy, svg

SHORT = 18
"""Names up to this long are written beside their points, if no more than FEW."""
FEW = 8


@dataclass(frozen=True)
class Point:
    """A cell in the plane of cost and quality, with the 95% interval of its quality."""

    cell: str
    x: float
    y: float
    low: float
    high: float


def pareto(contents: Contents) -> list[dict[str, Any]]:
    """For every kind of cost that is known: its name, why it is there, and a drawing a quality."""
    found = []
    for name, told, cost in _costs(contents):
        plots = [plot for quality in _qualities(contents) if (plot := _plot(contents, name, cost, *quality)) is not None]
        if plots:
            found.append({"name": name, "told": told, "plots": plots})
    return found


def key(contents: Contents) -> list[dict[str, str]]:
    """What the marks, colours and markers mean, a line a cell."""
    colour, marker = colours(contents), markers(contents)
    return [{"mark": mark, "cell": cell, "colour": "currentColor" if colour[cell] == INK else colour[cell],
             "sign": MARKERS.get(marker[cell], "★"), "strategy": strategy(contents, cell)}
            for cell, mark in contents.marks.items()]  # fmt: skip


def front(points: Sequence[Point], better: str) -> list[Point]:
    """The points that no other point equals or beats in both, one of them clearly; the cheapest first.

    Args:
        points: less cost is better.
        better: "higher" or "lower" quality.
    """
    sign = 1 if better == "higher" else -1
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -sign * p.y)):
        if not kept or sign * point.y > sign * kept[-1].y:
            kept.append(point)
    return kept


def _costs(contents: Contents) -> list[tuple[str, str, Callable[[str], float | None]]]:
    lines = {line["cell"]: line for line in contents.lines}
    flops = {cell: cost["flops"] / 1e9 for cell, cost in contents.costs.items() if cost.get("flops") is not None}
    return [
        ("GFLOPs of a denoiser call", "Counted, not timed: the same on every machine.", flops.get),
        ("tokens kept, share of the base's", "Over all layers that any cell of the study merges.", partial(kept_share, contents)),
        (
            "seconds an image",
            "Timed on this run's machine while it made the pictures: noisy.",
            lambda cell: lines[cell]["seconds"],
        ),
    ]


def scale(axes: Any, metric: Metric, points: list[Point]) -> None:  # noqa: ANN401
    """What is compared by ratio is drawn so that equal ratios are equal lengths, if nothing is 0."""
    if metric.by == RATIO and min(end for point in points for end in _ends(point)) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())


def kept_share(contents: Contents, cell: str) -> float | None:
    """Tokens that a cell leaves, as a share of what the layers see that any cell of the same base merges; 1 for a base."""
    lines = {line["cell"]: line for line in contents.lines}
    if cell not in contents.merged:
        return 1.0
    same = [name for name in contents.merged if contents.base_of(name) == contents.base_of(cell)]
    counts = [lines[name]["tokens_before"] for name in same if lines[name]["tokens_before"]]
    if not counts or lines[cell]["tokens_after"] is None:
        return None
    return 1 - (lines[cell]["tokens_before"] - lines[cell]["tokens_after"]) / max(counts)


def _qualities(contents: Contents) -> list[tuple[Metric, Callable[[str], Interval]]]:
    """Metrics and their values by cell: the primary one, then what tells of quality without the base."""
    wanted = [contents.primary.metric if contents.primary else None, "feature", *contents.metrics]
    asked = [next((name for name in wanted if name in contents.metrics), None), "text", "clip"]
    shown = [name for name in dict.fromkeys(asked) if name in contents.metrics]
    pictures = [(contents.metrics[name], partial(contents.interval, metric=name)) for name in shown]
    sets = [(metric, partial(_set_interval, contents, name)) for name, metric in contents.set_metrics.items()]
    return pictures + sets


def _set_interval(contents: Contents, name: str, cell: str) -> Interval:
    found = contents.set_value(cell, name)
    return (found["value"], found["low"], found["high"]) if found else (math.nan, math.nan, math.nan)


def _plot(contents: Contents, cost: str, x_of: Callable[[str], float | None], metric: Metric,
          y_of: Callable[[str], Interval]) -> Markup | None:  # fmt: skip
    """A drawing, or None where fewer than two cells have both numbers."""
    points = [Point(cell, x, *y_of(cell)) for cell in contents.cells if (x := x_of(cell)) is not None]
    points = [point for point in points if math.isfinite(point.y)]
    if len(points) < 2:
        return None
    direction = "↑ higher" if metric.better == "higher" else "↓ lower"
    with figure(4.4, 3.3) as drawn:
        axes = drawn.add_subplot()
        label_axes(
            axes, f"{cost}   (← cheaper)", f"{metric.label}{f', {metric.unit}' if metric.unit else ''}   ({direction} is better)"
        )
        if (base := next((x_of(cell) for cell in contents.cells if cell not in contents.merged), None)) is not None:
            axes.axvline(base, color=INK, alpha=0.4, lw=0.8, ls=":")
        scale(axes, metric, points)
        axes.scatter([p.x for p in points for _ in range(2)], [end for p in points for end in _ends(p)], s=0)
        axes.margins(0.2, 0.12)
        drawn.draw_without_rendering()  # the limits and the layout are final from here on
        axes.autoscale(False)
        best = front(points, metric.better)
        axes.plot([p.x for p in best], [p.y for p in best], color=INK, lw=1, alpha=0.5, drawstyle="steps-post", zorder=1)
        seen = [replace(p, x=x) for p, (x, _) in zip(points, labels.apart(axes, [(p.x, p.y) for p in points]), strict=True)]
        _draw(contents, axes, seen, {p.cell for p in best})
        short = len(points) <= FEW and all(len(point.cell) <= SHORT for point in points)
        texts = [point.cell if short else contents.marks[point.cell] for point in points]
        labels.place(axes, [(p.x, p.y) for p in seen], texts, _lines(seen, best))
        return svg(drawn, f"{metric.label} against {cost}, a point a cell")


def _draw(contents: Contents, axes: Any, points: list[Point], best: set[str]) -> None:  # noqa: ANN401
    colour, marker = colours(contents), markers(contents)
    for p in points:
        axes.vlines(p.x, *_ends(p), color=colour[p.cell], lw=1.2, alpha=0.7, zorder=2)
        size, edge = 70 if marker[p.cell] == "*" else 36, 1.2 if p.cell in best else 0
        axes.scatter([p.x], [p.y], size, colour[p.cell], marker[p.cell], zorder=3, linewidths=edge, edgecolors=INK)


def _lines(points: list[Point], best: list[Point]) -> list[tuple[labels.At, labels.At]]:
    """The bars, and the level and upright pieces of the front."""
    bars = [((p.x, low), (p.x, high)) for p in points for low, high in [_ends(p)]]
    steps = [piece for a, b in pairwise(best) for piece in (((a.x, a.y), (b.x, a.y)), ((b.x, a.y), (b.x, b.y)))]
    return bars + steps


def _ends(point: Point) -> tuple[float, float]:
    return (point.low, point.high) if math.isfinite(point.low) else (point.y, point.y)
