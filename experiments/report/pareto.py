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
from ..results.pairing import RATIO
from ..results.run import Interval, Run
from . import labels
from .figures import INK, MARKERS, colours, figure, label_axes, markers, strategy, svg

SHORT = 18
"""Names of up to this many characters label their points, if there are at most FEW points."""
FEW = 8
LARGE = "For {}: operations, and the time to plan and to move tokens."


@dataclass(frozen=True)
class Point:
    """A cell in the plane of cost and quality, with the 95% interval of its quality."""

    cell: str
    x: float
    y: float
    low: float
    high: float


def pareto(run: Run) -> list[dict[str, Any]]:
    """For every kind of cost that is known: its name, what it is good for, and a drawing for every quality."""
    drawings = []
    for name, note, cost in _costs(run):
        plots = [plot for quality in _qualities(run) if (plot := _plot(run, name, cost, *quality)) is not None]
        if plots:
            drawings.append({"name": name, "note": note, "plots": plots})
    return drawings


def key(run: Run) -> list[dict[str, str]]:
    """What the marks, colours and markers mean, a line for every cell."""
    colour, marker = colours(run), markers(run)
    return [{"mark": mark, "cell": cell, "colour": "currentColor" if colour[cell] == INK else colour[cell],
             "sign": MARKERS.get(marker[cell], "★"), "strategy": strategy(run, cell)}
            for cell, mark in run.marks.items()]  # fmt: skip


def front(points: Sequence[Point], better: str) -> list[Point]:
    """The Pareto front: points that no other point matches in cost and quality while beating them in one; the cheapest first.

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


def _costs(run: Run) -> list[tuple[str, str, Callable[[str], float | None]]]:
    flops = {cell: cost["flops"] / 1e9 for cell, cost in run.costs.items() if cost.get("flops") is not None}
    return [
        ("cost of a step, share of the base's", LARGE.format(run.large), run.shares.get),
        ("GFLOPs per denoiser call", "Counted, not timed: the same on every machine.", flops.get),
        ("tokens kept, share of the base's", "Over all layers that any cell of the study merges.", partial(kept_share, run)),
        (f"seconds per {run.noun}", f"Timed on this run's machine while it generated the {run.noun}s: noisy.",
         lambda cell: run.lines[cell].seconds),
    ]  # fmt: skip


def scale(axes: Any, metric: Metric, points: list[Point]) -> None:  # noqa: ANN401
    """Use a log scale for a metric that is compared by ratio, unless something is 0."""
    if metric.by == RATIO and min(end for point in points for end in _ends(point)) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())


def kept_share(run: Run, cell: str) -> float | None:
    """Tokens that a cell leaves, as a share of the tokens of all layers that any cell of the same base merges; 1 for a base."""
    line = run.lines[cell]
    if cell not in run.merged:
        return 1.0
    same = [name for name in run.merged if run.base_of(name) == run.base_of(cell)]
    counts = [before for name in same if (before := run.lines[name].tokens_before)]
    if not counts or line.tokens_before is None or line.tokens_after is None:
        return None
    return 1 - (line.tokens_before - line.tokens_after) / max(counts)


def _qualities(run: Run) -> list[tuple[Metric, Callable[[str], Interval]]]:
    """Metrics and their values by cell: the primary one, then those that measure quality without the base."""
    fidelity = [run.primary.metric if run.primary else None, "feature", *run.metrics]
    names = [next((name for name in fidelity if name in run.metrics), None), "text", "clip"]
    shown = [name for name in dict.fromkeys(names) if name in run.metrics]
    images = [(run.metrics[name], partial(run.interval, metric=name)) for name in shown]
    sets = [(metric, partial(_set_interval, run, name)) for name, metric in run.set_metrics.items()]
    return images + sets


def _set_interval(run: Run, name: str, cell: str) -> Interval:
    value = run.set_value(cell, name)
    return (value["value"], value["low"], value["high"]) if value else (math.nan, math.nan, math.nan)


def _plot(run: Run, cost: str, x_of: Callable[[str], float | None], metric: Metric,
          y_of: Callable[[str], Interval]) -> Markup | None:  # fmt: skip
    """A drawing, or None where fewer than two cells have both numbers."""
    points = [Point(cell, x, *y_of(cell)) for cell in run.cells if (x := x_of(cell)) is not None]
    points = [point for point in points if math.isfinite(point.y)]
    if len(points) < 2:
        return None
    direction = "↑ higher" if metric.better == "higher" else "↓ lower"
    with figure(4.4, 3.3) as drawn:
        axes = drawn.add_subplot()
        label_axes(
            axes, f"{cost}   (← cheaper)", f"{metric.label}{f', {metric.unit}' if metric.unit else ''}   ({direction} is better)"
        )
        if (base := next((x_of(cell) for cell in run.cells if cell not in run.merged), None)) is not None:
            axes.axvline(base, color=INK, alpha=0.4, lw=0.8, ls=":")
        scale(axes, metric, points)
        axes.scatter([p.x for p in points for _ in range(2)], [end for p in points for end in _ends(p)], s=0)
        axes.margins(0.2, 0.12)
        drawn.draw_without_rendering()  # the limits and the layout are final from here on
        axes.autoscale(False)
        best = front(points, metric.better)
        axes.plot([p.x for p in best], [p.y for p in best], color=INK, lw=1, alpha=0.5, drawstyle="steps-post", zorder=1)
        seen = [replace(p, x=x) for p, (x, _) in zip(points, labels.apart(axes, [(p.x, p.y) for p in points]), strict=True)]
        _draw(run, axes, seen, {p.cell for p in best})
        short = len(points) <= FEW and all(len(point.cell) <= SHORT for point in points)
        texts = [point.cell if short else run.marks[point.cell] for point in points]
        labels.place(axes, [(p.x, p.y) for p in seen], texts, _lines(seen, best))
        return svg(drawn, f"{metric.label} against {cost}, a point for every cell")


def _draw(run: Run, axes: Any, points: list[Point], best: set[str]) -> None:  # noqa: ANN401
    colour, marker = colours(run), markers(run)
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
