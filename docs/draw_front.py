"""Draw fidelity against the cost of a step for every cell of two kept studies, with and without log sizes: docs/front.png.

Run ``python docs/draw_front.py`` after keeping new rows or costs of the studies `log-sizes` or `preset`.
"""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mergekit_diff.experiments.report.pareto import Point, front
from mergekit_diff.experiments.results.run import Run

HERE = Path(__file__).parent
STUDIES = {"log-sizes": "log-sizes: all levels", "preset": "preset: one level whole, or two of keys and values"}
COLOURS = {"tomesd": "#D55E00", "local-match": "#AA4499", "retom-paper": "#0072B2"}
MARKERS = {"self_attention": "o", "key_value": "s"}
ROLES = {"self_attention": "whole tokens", "key_value": "keys and values"}
PRESET = "local-match(ratio=0.75, stride=4), roles=['key_value'], levels=2, proportional=True"


def draw(axes: Any, run: Run, title: str) -> None:  # noqa: ANN401
    """Draw a study's cells: filled marks have log sizes; the line joins cells that no other beats in both."""
    points = [Point(cell, run.shares[cell], *run.interval(cell, "feature")) for cell in run.merged if not cell.endswith(" again")]
    best = front(points, "lower")
    axes.plot([p.x for p in best], [p.y for p in best], color="black", lw=1, alpha=0.4, drawstyle="steps-post", zorder=1)
    for point in points:
        colour = next(c for name, c in COLOURS.items() if point.cell.startswith(name))
        marker = next(m for role, m in MARKERS.items() if role in point.cell)
        filled = colour if "proportional=True" in point.cell else "white"
        axes.plot([point.x] * 2, [point.low, point.high], color=colour, lw=1.2, alpha=0.7)
        axes.plot(point.x, point.y, marker, color=colour, mfc=filled, ms=7, mew=1.5)
        if point.cell == PRESET:
            axes.annotate("the preset", (point.x, point.y), (-6, -4), textcoords="offset points", ha="right", fontsize=9)
    axes.set(yscale="log", title=title, xlabel="cost of a step at 1024 pixels, share of the base's (← cheaper)")
    axes.grid(alpha=0.3)


def key() -> list[Line2D]:
    """What the colours, shapes and fillings mean."""
    strategies = [Line2D([], [], ls="", marker="D", color=colour, label=name) for name, colour in COLOURS.items()]
    roles = [Line2D([], [], ls="", marker=MARKERS[role], color="grey", label=text) for role, text in ROLES.items()]
    sizes = [
        Line2D([], [], ls="", marker="D", color="grey", mfc=c, label=t)
        for c, t in (("grey", "log sizes"), ("white", "no log sizes"))
    ]
    return strategies + roles + sizes


def main() -> None:
    """Draw both studies side by side, on one scale of distance."""
    figure = Figure((10, 4.6), layout="constrained")
    panels = figure.subplots(1, len(STUDIES), sharex=True, sharey=True)
    for axes, (name, title) in zip(panels, STUDIES.items(), strict=True):
        draw(axes, Run.read(HERE.parent / "experiments" / "findings" / name), title)
    panels[0].set_ylabel("feature distance to the base (↓ lower is better)")
    figure.legend(handles=key(), loc="outside lower center", ncols=7, frameon=False, columnspacing=1.2)
    figure.savefig(HERE / "front.png", dpi=100)


if __name__ == "__main__":
    main()
