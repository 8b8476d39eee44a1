"""The tables of a run as rows of text: the terminal and the page show the same."""

import math
from typing import Any

import numpy as np

from ..metrics import metrics
from ..study.config import Primary
from .comparison import RATIO, Comparison, by_cell

FIDELITY = "Fidelity to the base picture of the same prompt and seed"
SPEED = "Speed on one SD 1.5-sized transformer block (4096 tokens, C=320, batch 2, random weights)"
VERDICTS = "Against the control, over the same prompts and seeds"
OVER_STEPS = {
    "stale": "Share of tokens whose group a fresh plan would change",
    "drift": "Distance of the latents from the base's, as a share of their length",
}
PARTS = 5
DASH = "–"  # noqa: RUF001


def fidelity_table(lines: list[dict[str, Any]], names: list[str], primary: Primary | None) -> list[list[str]]:
    """Heading and a row a cell: tokens before and after in one call of the denoiser, ratios, fidelity to the base, n."""
    known = metrics()
    head = ["cell", "tokens a call", "ratio asked", "granted"]
    for name in per_picture(names):
        arrow = "↑" if known[name].better == "higher" else "↓"
        unit = f" {known[name].unit}" if known[name].unit else ""
        mark = " (primary)" if primary is not None and primary.metric == name else ""
        head.append(f"{known[name].label}{unit} {arrow}{mark}")
    return [[*head, "s/image", "n"], *[_fidelity_row(line, names) for line in lines]]


def speed_table(lines: list[dict[str, Any]]) -> list[list[str]]:
    """Heading and a row a variant, times in milliseconds."""
    head = ["variant", "whole block ms", "attention layer ms", "plan ms", "merge + unmerge ms", "block time / base"]
    keys = ("block", "layer", "plan", "merge", "ratio")
    return [head, *[[line["variant"], *[_number(line[key], 2 if key == "ratio" else 1) for key in keys]] for line in lines]]


def verdict_table(compared: list[Comparison]) -> list[list[str]]:
    """Heading and a row a comparison."""
    label = f"{metrics()[compared[0].metric].label}: {compared[0].by}"
    head = ["cell", "control", label, "95% interval", "p (Holm)", "visible from", "verdict", "prompts", "n"]
    return [head, *[_verdict_row(one) for one in compared]]


def _verdict_row(one: Comparison) -> list[str]:
    digits = ".2f" if one.by == RATIO else "+.4f"
    between = f"[{one.low:{digits}}, {one.high:{digits}}]"
    p = DASH if math.isnan(one.p_holm) else f"{one.p_holm:.4f}"
    visible = DASH if math.isnan(one.visible) else f"{one.visible:{digits}}"
    return [one.cell, one.against, f"{one.effect:{digits}}", between, p, visible, one.verdict, str(one.prompts), str(one.n)]


def steps_table(rows: list[dict[str, Any]], column: str) -> list[list[str]]:
    """Heading and a row a cell: the mean of a number that every step has, over each fifth of the steps."""
    from .curves import curve

    curves = {cell: found.mean for cell, group in by_cell(rows).items() if (found := curve(group, column)) is not None}
    parts = np.array_split(np.arange(max(map(len, curves.values()))), PARTS)
    head = ["cell", *[f"steps {part[0] + 1} to {part[-1] + 1}" for part in parts]]
    return [head, *[[cell, *[_number(float(np.nanmean(mean[part])), 4) for part in parts]] for cell, mean in curves.items()]]


def notes(lines: list[dict[str, Any]]) -> list[str]:
    """What the merge report said about cells, one line each."""
    return [f"{line['cell']}: {'; '.join(line['notes'])}" for line in lines if line["notes"]]


def markdown(title: str, table: list[list[str]]) -> str:
    """A table for a README or a note; numbers to the right."""
    head, *rows = table
    rows = [[text.replace("|", "\\|") for text in row] for row in rows]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return f"{title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def per_picture(names: list[str]) -> list[str]:
    """The metrics that every picture has."""
    return [name for name in names if metrics()[name].of != "set"]


def _fidelity_row(line: dict[str, Any], names: list[str]) -> list[str]:
    name = line["cell"] + (" (control)" if line["role"] == "control" else "")
    before, after = line["tokens_before"], line["tokens_after"]
    tokens = DASH if before is None else f"{before:,.0f} → {after:,.0f}"
    values = [_number(line[name], 2 if name == "psnr" else 4) for name in per_picture(names)]
    ratios = [_number(line["asked"], 3), _number(line["granted"], 3)]
    return [name, tokens, *ratios, *values, _number(line["seconds"], 2), str(line["n"])]


def _number(value: Any, digits: int) -> str:  # noqa: ANN401
    if value in (None, ""):
        return DASH
    return "∞" if math.isinf(float(value)) else f"{float(value):.{digits}f}"
