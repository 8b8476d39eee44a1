"""Stage ``card``: the model card of a trained model, from its recipe's template and from its weights, logs and measures.

Numbers are read from files, so that no card says more than they do.
"""

import csv
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template

from safetensors import safe_open

from ...files import write_atomically
from .. import identity
from .data import PACKAGES
from .phase import Phase
from .recipe import Bar, Measures, Recipe

AUTHORS = {"noto": "Google, Apache-2.0", "flat": "Microsoft, MIT", "3d": "Microsoft, MIT"}
LAST = 4  # rows of a log whose mean is the loss at the end
CARD, LOG = "MODEL_CARD.md", "training_log.csv"
VERDICTS = {True: "met", False: "missed", None: ""}
Rows = list[dict[str, str]]


def write(recipe: Recipe, model: Path, folder: Path, named: int | None) -> Path:
    """Write the card and the logs of the training into a model's folder; returns the card's path.

    Args:
        recipe: of the model.
        model: its pipeline folder.
        folder: work folder, with ``log/`` and what ``evaluate`` wrote about these weights.
        named: how many images, or videos, a viewer named right on the sheet; None if nobody was asked yet.

    Raises:
        FileNotFoundError: these weights have not been evaluated.
    """
    path = folder / "evaluate" / identity(str(model)) / "measures.json"
    if not path.exists():
        raise FileNotFoundError(f"expected measures of {model} by the stage evaluate, got none: {path}")
    logs = {phase: rows for phase in recipe.phases if (rows := _log(folder / "log" / f"{phase.name}.csv"))}
    card = Template(recipe.template.read_text(encoding="utf-8")).substitute(
        weights=_weights(model),
        styles=_table(("style", "package (npm)", "author, licence"), ((s, f"`{p}`", AUTHORS[s]) for s, p in PACKAGES.items())),
        training=_training(logs),
        measures=_measures(recipe.bars, json.loads(path.read_text()) | {"named": named}),
        **recipe.facts,
    )
    write_atomically(model / CARD, card.encode())
    lines = [",".join((phase.name, *row.values())) for phase, rows in logs.items() for row in rows]
    write_atomically(model / LOG, "\n".join(("stage,step,loss,rate,seconds", *lines, "")).encode())
    return model / CARD


def parameters(model: Path) -> dict[str, int]:
    """Number of parameters of every part of a pipeline folder, from the headers of its weights."""
    counts: dict[str, int] = {}
    for file in sorted(model.glob("*/*.safetensors")):
        with safe_open(file, framework="numpy") as opened:
            sizes = [math.prod(opened.get_slice(name).get_shape()) for name in opened.keys()]
        counts[file.parent.name] = counts.get(file.parent.name, 0) + sum(sizes)
    return counts


def _weights(model: Path) -> str:
    parts = parameters(model)
    size = sum(file.stat().st_size for file in model.rglob("*.safetensors")) / 1e6
    each = ", ".join(f"`{part}` {count / 1e6:.2f}" for part, count in parts.items())
    return f"fp16 safetensors, {size:.0f} MB; {sum(parts.values()) / 1e6:.1f} million parameters ({each})"


def _training(logs: Mapping[Phase, Rows]) -> str:
    rows = []
    for phase, log in logs.items():
        steps, hours = int(log[-1]["step"]), float(log[-1]["seconds"]) / 3600
        rate = max(float(row["rate"]) for row in log)
        losses = [float(row["loss"]) for row in log[-LAST:]]
        loss = sum(losses) / len(losses)
        rows.append((phase.what, f"{steps:,}", f"{steps * phase.batch:,}", f"{rate:g}", f"{loss:.4f}", f"{hours:.1f}"))
    head = ("stage", "steps", "samples", "peak rate", f"loss, last {LAST} rows of the log", "CPU hours")
    note = (
        "AdamW, and Muon for the matrices inside blocks; the weights are exponential moving "
        "averages (at most 0.9995; autoencoder 0.999). Nothing was merged or pooled."
    )
    return f"{_table(head, rows)}\n\n{note} `{LOG}` has the logs."


def _measures(bars: tuple[Bar, ...], measures: Measures) -> str:
    rows = [(bar.measure, bar.n, value, bar.least, VERDICTS[met]) for bar in bars for value, met in [bar.read(measures)]]
    table = _table(("measure", "n", "value", "requirement", "verdict"), rows)
    return (
        f"{table}\n\nBy the stage `evaluate`; 95% bootstrap intervals. Identity of the measured weights: `{measures['model']}`."
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ("---",) * len(head), *rows))


def _log(path: Path) -> Rows:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
