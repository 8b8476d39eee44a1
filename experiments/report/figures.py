"""How the page's figures look: SVG that takes the page's text colour, so that one drawing serves light and dark."""

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..results.run import Run

INK = "#010203"
"""Stands for the colour of the page's text, which an SVG in a page can name but matplotlib cannot."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito (2008): distinct for colour-blind readers, visible on white and on black."""
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "X": "✖", "P": "✚"}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "text.parse_math": False, "font.sans-serif": ["DejaVu Sans"], "font.size": 9,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": INK, "grid.alpha": 0.12, "grid.linewidth": 0.6, "figure.facecolor": "none", "axes.facecolor": "none",
    "savefig.facecolor": "none", "legend.frameon": False,
}  # fmt: skip


@contextmanager
def figure(width: float, height: float) -> Iterator[Figure]:
    """An empty figure in the page's style, in inches of 72 units."""
    with mpl.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def svg(drawn: Figure, title: str) -> Markup:
    """A figure as an inline SVG element, as wide as its box; a screen reader reads its title.

    Args:
        drawn: inside of its :func:`figure` block.
        title: one sentence that describes the figure.
    """
    text = io.StringIO()
    drawn.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    body = text.getvalue()[text.getvalue().index("<svg") :].replace(INK, "currentColor")
    body = re.sub(r"<style[^>]*>.*?</style>|(?<=<g) id=\"[^\"]*\"|\s+xmlns(:\w+)?=\"[^\"]*\"", "", body, flags=re.DOTALL)
    body = re.sub(r"(<svg[^>]*?) width=\"[^\"]*\"|(<svg[^>]*?) height=\"[^\"]*\"", r"\1\2", body)
    return Markup('<svg role="img" aria-label="{}"').format(title) + Markup(_named(body, title).removeprefix("<svg"))


def _named(body: str, title: str) -> str:
    """The figure with ids that are unique on the page: matplotlib's repeat between figures, and differ from run to run."""
    own = hashlib.sha256(title.encode()).hexdigest()[:8]
    names = {name: f"f{own}-{i}" for i, name in enumerate(dict.fromkeys(re.findall(r"\bid=\"([^\"]+)\"", body)))}
    return re.sub(r"(?<=\bid=\")[^\"]+|(?<=#)\w+(?=[\")])", lambda match: names.get(match[0], match[0]), body)


def colours(run: Run) -> dict[str, str]:
    """A colour for every cell, the same for cells of one strategy. A base has the colour of the text."""
    strategies = {cell: strategy(run, cell) for cell in run.merged}
    order = list(dict.fromkeys(strategies.values()))
    own = {cell: COLOURS[order.index(name) % len(COLOURS)] for cell, name in strategies.items()}
    return {cell: own.get(cell, INK) for cell in run.cells}


def markers(run: Run) -> dict[str, str]:
    """A marker for every cell, the same for cells of one ratio. A base is a star."""
    ratios = {cell: line.asked and round(line.asked, 2) for cell, line in run.lines.items()}
    order = sorted({ratio for ratio in ratios.values() if ratio is not None})
    kinds = list(MARKERS)
    own = {cell: kinds[order.index(ratio) % len(kinds)] if ratio is not None else "o" for cell, ratio in ratios.items()}
    return {cell: own[cell] if cell in run.merged else "*" for cell in run.cells}


def strategy(run: Run, cell: str) -> str:
    """The name of a cell's strategy without its settings."""
    return run.cells[cell][0].strategy.split("(")[0]


def label_axes(axes: Axes, x: str, y: str) -> None:
    """Both labels at once."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
