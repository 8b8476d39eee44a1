"""The tables of a run as rows of text, the same for terminal, page and Markdown."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..metrics import metrics
from ..study.config import Primary
from ..terminal import one_line
from .comparison import Comparison
from .curves import mean_curve
from .numbers import DASH
from .pairing import RATIO
from .row import Row, by_cell
from .summary import Line

SPEED = "Speed on one SD 1.5-sized transformer block (4096 tokens, C=320, batch 2, random weights)"
VERDICTS = "Against the control, over the same prompts and seeds"
OVER_STEPS = {
    "stale": "Share of tokens whose group a fresh plan would change",
    "drift": "Distance of the latents from the base's, relative to their norm",
}
LAYERS = "Error of the layers: how far merging changes what each adds to its input, mean over steps and prompts"
PARTS = 5
_SPECIAL = re.compile(r"<(?=[A-Za-z/!?])|\]\(|\|")
"""What begins a tag or a comment, makes a link, or ends an entry in Markdown; "< 0.05" does not."""


def fidelity_title(noun: str = "image") -> str:
    """Title of :func:`fidelity_table`, for images or videos."""
    return f"Fidelity to the base {noun} of the same prompt and seed"


def fidelity_table(lines: Iterable[Line], names: Sequence[str], primary: Primary | None, noun: str = "image") -> list[list[str]]:
    """Heading and a row for every cell: tokens before and after in one call of the denoiser, ratios, fidelity to the base, n.

    Args:
        lines: means of the cells.
        names: of the metrics; those of whole sets are left out.
        primary: the metric that was named before the run.
        noun: what was made, "image" or "video".
    """
    known = metrics()
    head = ["cell", "tokens a call", "ratio asked", "granted", "plan every"]
    for name in per_image(names):
        arrow = "↑" if known[name].better == "higher" else "↓"
        unit = f" {known[name].unit}" if known[name].unit else ""
        mark = " (primary)" if primary is not None and primary.metric == name else ""
        head.append(f"{known[name].label}{unit} {arrow}{mark}")
    return [[*head, f"s/{noun}", "n"], *[_fidelity_row(line, names) for line in lines]]


def quality_title(comparisons: Sequence[Comparison]) -> str:
    """Title of the :func:`verdict_table` of a metric of quality."""
    label = metrics()[comparisons[0].metric].label
    return f"Quality by {label}, against the base and the control, over the same prompts and seeds"


def speed_table(lines: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Heading and a row for every variant, times in milliseconds."""
    head = ["variant", "whole block ms", "attention layer ms", "plan ms", "merge + unmerge ms", "block time / base"]
    keys = ("block", "layer", "plan", "merge", "ratio")
    return [head, *[[line["variant"], *[_number(line[key], 2 if key == "ratio" else 1) for key in keys]] for line in lines]]


def verdict_table(comparisons: Sequence[Comparison], beside: Mapping[str, Comparison]) -> list[list[str]]:
    """Heading and a row for every comparison.

    Args:
        comparisons: by one metric.
        beside: by cell, the same comparison by a second metric; may be empty.
    """
    label = f"{metrics()[comparisons[0].metric].label}: {comparisons[0].by}"
    head = ["cell", "control", label, "95% interval", "p (Holm)", "visible from", "verdict", "prompts", "n"]
    if not beside:
        return [head, *[_verdict_row(one) for one in comparisons]]
    second = next(iter(beside.values())).metric
    head += [f"{metrics()[second].label} {metrics()[second].unit}: difference", "verdict by it"]
    return [head, *[[*_verdict_row(one), *_beside(beside.get(one.cell))] for one in comparisons]]


def show_p(one: Comparison) -> str:
    """The corrected p of a comparison, as a bound where the test can give no smaller one."""
    return DASH if math.isnan(one.p_holm) else f"{'< ' * one.least}{one.p_holm:.4f}"


def steps_table(rows: Sequence[Row], column: str) -> list[list[str]]:
    """Heading and a row for every cell: the mean of a column with a number for every step, over each fifth of the steps."""
    means = {cell: mean for cell, group in by_cell(rows).items() if (mean := mean_curve(group, column)) is not None}
    parts = np.array_split(np.arange(max(map(len, means.values()))), PARTS)
    head = ["cell", *[f"steps {part[0] + 1} to {part[-1] + 1}" for part in parts]]
    return [head, *[[cell, *[_number(float(np.nanmean(mean[part])), 4) for part in parts]] for cell, mean in means.items()]]


def layers_table(rows: Sequence[Row]) -> list[list[str]]:
    """Heading and a row for every cell: the mean error of each site's layer, over steps and prompts."""
    cells = {cell: group for cell, group in by_cell(rows).items() if any(row.layers for row in group)}
    sites = dict.fromkeys(site for group in cells.values() for row in group for site in row.layers)
    lines = [[cell, *[_number(_layer(group, site), 4) for site in sites]] for cell, group in cells.items()]
    return [["cell", *sites], *lines]


def _layer(rows: Sequence[Row], site: str) -> float:
    errors = [value for row in rows for value in row.layers.get(site, ()) if value is not None]
    return sum(errors) / len(errors) if errors else math.nan


def plan_every(line: Line) -> str:
    """Denoising steps that a plan served, and whether one plan served the whole image."""
    if line.plan_every is None:
        return DASH
    return f"{line.plan_every:.3g}" + (" (one plan)" if line.plan_every == line.steps else "")


def notes(lines: Iterable[Line]) -> list[str]:
    """What the merge report said about cells, one line each."""
    return [f"{line.cell}: {'; '.join(line.notes)}" for line in lines if line.notes]


def markdown(title: str, table: Sequence[Sequence[str]]) -> str:
    """A table for a README or a note; numbers are aligned to the right. Names that look like HTML or a link stay text."""
    head, *rows = [[_SPECIAL.sub(_as_text, one_line(text)) for text in row] for row in table]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return f"{title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _as_text(special: re.Match[str]) -> str:
    return "&lt;" if special[0] == "<" else special[0].replace("](", "]\\(").replace("|", "\\|")


def per_image(names: Sequence[str]) -> list[str]:
    """The metrics that every image has; the others are of whole sets."""
    return [name for name in names if metrics()[name].of != "set"]


def _fidelity_row(line: Line, names: Sequence[str]) -> list[str]:
    name = line.cell + (" (control)" if line.role == "control" else "")
    before, after = line.tokens_before, line.tokens_after
    tokens = DASH if before is None or after is None else f"{before:,.0f} → {after:,.0f}"
    values = [_number(line.metrics[name], 2 if name == "psnr" else 4) for name in per_image(names)]
    ratios = [_number(line.asked, 3), _number(line.granted, 3)]
    return [name, tokens, *ratios, plan_every(line), *values, _number(line.seconds, 2), str(line.n)]


def _verdict_row(one: Comparison) -> list[str]:
    digits = ".2f" if one.by == RATIO else "+.4f"
    between = DASH if math.isnan(one.low) else f"[{one.low:{digits}}, {one.high:{digits}}]"
    visible = DASH if math.isnan(one.visible) else f"{one.visible:{digits}}"
    return [
        one.cell,
        one.against,
        f"{one.effect:{digits}}",
        between,
        show_p(one),
        visible,
        one.verdict,
        str(one.prompts),
        str(one.n),
    ]


def _beside(one: Comparison | None) -> list[str]:
    if one is None or not math.isfinite(one.effect):
        return [DASH, DASH]
    interval = f" [{one.low:+.2f}, {one.high:+.2f}]" if math.isfinite(one.low) else ""
    return [f"{one.effect:+.2f}{interval}", one.verdict]


def _number(value: Any, digits: int) -> str:  # noqa: ANN401
    if value in (None, ""):
        return DASH
    return "∞" if math.isinf(float(value)) else f"{float(value):.{digits}f}"
