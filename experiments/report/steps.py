"""Over the denoising steps: where tokens were merged, and how far the latents are from the base's."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import MaxNLocator

from ..results.curves import Curve, curve, jump
from ..results.run import Run
from .figures import INK, colours, figure, label_axes, svg

SHADES = "viridis"
NAMED = 20
"""At most this many layers are named at the axis of the heat map."""


def drawings(run: Run) -> list[dict[str, Any]]:
    """A drawing for every cell: layers against steps, and below on the same axis drift and stale plans, if they were measured."""
    drifts = _curves(run, "drift")
    stales = _curves(run, "stale")
    cells = []
    for cell in run.merged:
        sites = [site for site in run.maps.get(cell, {}).get("sites", []) if site.get("by_step")]
        if sites or cell in drifts or cell in stales:
            cells.append({"cell": cell, "mark": run.marks[cell], "svg": _drawing(run, cell, sites, drifts, stales)})
    return cells


def scale() -> Markup:
    """The colour scale of the heat maps."""
    with figure(3, 0.5) as drawn:
        axes = drawn.add_subplot()
        axes.imshow(np.linspace(0, 1, 128)[None], aspect="auto", cmap=SHADES, extent=(0, 1, 0, 1))
        axes.set_yticks([])
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.grid(False)
        return svg(drawn, "colour scale: share of tokens kept, from 0 to 1")


def shares(sites: Sequence[dict[str, Any]], steps: int) -> np.ndarray:
    """(sites, steps): share of a site's tokens that was kept; NaN where the site was not called."""
    grid = np.full((len(sites), steps), np.nan)
    for i, site in enumerate(sites):
        for step, (tokens, kept) in site["by_step"].items():
            grid[i, int(step)] = kept / tokens if tokens else np.nan
    return grid


def _curves(run: Run, column: str) -> dict[str, Curve]:
    curves = {cell: curve(run.cells[cell], column) for cell in run.merged}
    return {cell: one for cell, one in curves.items() if one is not None}


def _drawing(run: Run, cell: str, sites: list[dict[str, Any]], drifts: dict[str, Curve],
             stales: dict[str, Curve]) -> Markup:  # fmt: skip
    heights = [max(1.0, 0.15 * min(len(sites), 2 * NAMED) + 0.35)] if sites else []
    heights += [1.5] * (cell in drifts) + [1.1] * (cell in stales)
    colour = colours(run)[cell]
    with figure(4.3, sum(heights) + 0.5) as drawn:
        rows = iter(np.atleast_1d(drawn.subplots(len(heights), sharex=True, height_ratios=heights)))
        if sites:
            _heat(next(rows), sites)
        if cell in drifts:
            axes = next(rows)
            _lines(axes, drifts, cell, colour, "drift from the base\n(relative L2)")
            _mark_jump(axes, drifts[cell].mean)
        if cell in stales:
            _lines(next(rows), stales, cell, colour, "stale plans\n(share of tokens)")
        drawn.axes[-1].set_xlabel("denoising step   (noise → image)")
        drawn.axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        return svg(drawn, f"{run.marks[cell]}: layers, drift and stale plans over the denoising steps")


def _heat(axes: Axes, sites: list[dict[str, Any]]) -> None:
    steps = 1 + max(int(step) for site in sites for step in site["by_step"])
    axes.imshow(shares(sites, steps), aspect="auto", cmap=SHADES, vmin=0, vmax=1, interpolation="none")
    axes.grid(False)
    axes.set_ylabel("layer, grid")
    every = -(-len(sites) // NAMED)
    axes.set_yticks(range(0, len(sites), every), [_name(site, sites) for site in sites[::every]], fontsize=7)
    axes.spines[["left", "bottom"]].set_visible(False)


def _name(site: dict[str, Any], sites: list[dict[str, Any]]) -> str:
    """Stage and grid; the role only where there are several."""
    role = f" {site['role'].replace('_', ' ')}" if len({one["role"] for one in sites}) > 1 else ""
    return f"{site['stage'] or 'layer'} {'x'.join(map(str, site['grid']))}{role}"


def _lines(axes: Axes, curves: dict[str, Curve], cell: str, colour: str, label: str) -> None:
    """The cell's curve and band in colour before the others' in grey, so that the drawings of all cells can be compared."""
    others = [np.column_stack([np.arange(len(one.mean)), one.mean]) for other, one in curves.items() if other != cell]
    axes.add_collection(LineCollection(others, colors=INK, alpha=0.18, linewidths=0.8))
    own = curves[cell]
    axes.fill_between(np.arange(len(own.mean)), own.low, own.high, color=colour, alpha=0.25, lw=0)
    axes.plot(own.mean, color=colour, lw=1.8, marker="." if len(own.mean) <= 12 else None)
    label_axes(axes, "", label)
    axes.set_ylim(0, 1.08 * max(np.nanmax(one.high, initial=0.0) for one in curves.values()) or 1.0)


def _mark_jump(axes: Axes, mean: np.ndarray) -> None:
    step, _, _ = jump(mean)
    axes.axvline(step, color=INK, lw=0.8, ls="--", alpha=0.6)
    side, gap = ("left", 3) if step < len(mean) / 2 else ("right", -3)
    axes.annotate(f"largest jump: step {step}", (step, 1), (gap, -1), xycoords=("data", "axes fraction"),
                  textcoords="offset points", ha=side, va="top", fontsize=7.5)  # fmt: skip
