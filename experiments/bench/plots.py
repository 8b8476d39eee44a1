"""Plots of a measurement: bars with intervals and the floor as a line; curves over the number of tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .variants import BASE, FLOOR

Row = dict[str, Any]


def draw_times(rows: Sequence[Row], title: str, path: Path) -> None:
    """Median times; intervals are those of the paired ratio to the base, times the base's milliseconds."""
    base = next(row["wall_ms"] for row in rows if row["variant"] == BASE)
    middle, low, high = ([base * row["wall_ratio"][BASE][i] for row in rows] for i in range(3))
    reach = [[m - a for m, a in zip(middle, low, strict=True)], [b - m for m, b in zip(middle, high, strict=True)]]
    figure, axes = _axes(rows)
    axes.barh([_label(row) for row in rows], middle, xerr=reach, color=_colors(rows), capsize=3)
    _finish(figure, axes, rows, middle, title, "milliseconds per call, paired with the base", path)


def draw_flops(rows: Sequence[Row], title: str, path: Path) -> None:
    """Operations per call."""
    values = [row["flops"] / 1e9 for row in rows]
    figure, axes = _axes(rows)
    axes.barh([_label(row) for row in rows], values, color=_colors(rows))
    _finish(figure, axes, rows, values, title, "GFLOP per call", path)


def draw_scaling(rows: Sequence[Row], title: str, path: Path) -> None:
    """Planning time and memory over tokens, on logarithmic axes."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    for place, (key, fitted, unit, label) in enumerate(
        (("plan_ms", "time_exponent", 1, "planning, ms"), ("peak_bytes", "memory_exponent", 2**20, "peak memory, MiB"))
    ):
        axes = figure.add_subplot(1, 2, place + 1)
        for row in rows:
            grows = "" if row[fitted] is None else f", N^{row[fitted]:.2f}"
            axes.plot(row["tokens"], [value / unit for value in row[key]], "o-", label=f"{row['variant']}{grows}")
        axes.set_xscale("log", base=2)
        axes.set(xlabel="tokens", ylabel=label, yscale="log")
        axes.legend(fontsize=8)
    figure.suptitle(title)
    figure.savefig(path)


def _axes(rows: Sequence[Row]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, 1.2 + 0.35 * len(rows)), layout="constrained")
    return figure, figure.add_subplot()


def _finish(figure: Figure, axes: Axes, rows: Sequence[Row], values: Sequence[float], title: str, label: str, path: Path) -> None:
    for row, value in zip(rows, values, strict=True):
        if row["variant"] == FLOOR:
            axes.axvline(value, color="black", linestyle="--", linewidth=1)
    axes.invert_yaxis()
    axes.set(title=title, xlabel=label, xlim=(0, None))
    figure.savefig(path)


def _label(row: Row) -> str:
    return row["variant"] if row["refresh"] is None else f"{row['variant']}, plan every {row['refresh']}"


def _colors(rows: Sequence[Row]) -> list[str]:
    return ["tab:gray" if row["refresh"] is None else "tab:blue" for row in rows]
