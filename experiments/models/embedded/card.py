"""Stage ``card``: the model card of a trained model, from its recipe's template and from its weights, logs and measures.

Numbers are read from files, so that no card says more than they do.
"""

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

from safetensors import safe_open

from ...files import write_atomically
from .. import identity
from .data import PACKAGES

AUTHORS = {"noto": "Google, Apache-2.0", "flat": "Microsoft, MIT", "3d": "Microsoft, MIT"}
LAST = 4  # rows of a log whose mean is the loss at the end
CARD, LOG = "MODEL_CARD.md", "training_log.csv"
VERDICTS = {True: "met", False: "missed", None: ""}
Measures = Mapping[str, Any]
Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Bar:
    """A requirement of a model.

    Args:
        measure: what is measured.
        n: on how many images or videos.
        read: reads the measures; returns the value as the card prints it, and whether the bar is met, None where it only reports.
        least: the requirement as the card prints it.
    """

    measure: str
    n: str
    read: Callable[[Measures], tuple[str, bool | None]]
    least: str = "reported"


@dataclass(frozen=True)
class Recipe:
    """What the card needs to know about a model besides its files.

    Args:
        template: of the card, with ``$weights``, ``$styles``, ``$training`` and ``$measures``.
        stages: by the name of a log: what is trained, and how many images or videos a step has.
        bars: the requirements.
        facts: further placeholders of the template.
    """

    template: Path
    stages: Mapping[str, tuple[str, int]]
    bars: tuple[Bar, ...]
    facts: Mapping[str, str] = field(default_factory=dict)


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
    logs = {stage: rows for stage in recipe.stages if (rows := _log(folder / "log" / f"{stage}.csv"))}
    card = Template(recipe.template.read_text(encoding="utf-8")).substitute(
        weights=_weights(model),
        styles=_table(("style", "package (npm)", "author, licence"), ((s, f"`{p}`", AUTHORS[s]) for s, p in PACKAGES.items())),
        training=_training(recipe, logs),
        measures=_measures(recipe.bars, json.loads(path.read_text()) | {"named": named}),
        **recipe.facts,
    )
    write_atomically(model / CARD, card.encode())
    lines = [",".join((stage, *row.values())) for stage, rows in logs.items() for row in rows]
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


def _training(recipe: Recipe, logs: Mapping[str, Rows]) -> str:
    rows = []
    for stage, log in logs.items():
        what, batch = recipe.stages[stage]
        steps, hours = int(log[-1]["step"]), float(log[-1]["seconds"]) / 3600
        rate = max(float(row["rate"]) for row in log)
        losses = [float(row["loss"]) for row in log[-LAST:]]
        loss = sum(losses) / len(losses)
        rows.append((what, f"{steps:,}", f"{steps * batch:,}", f"{rate:.0e}", f"{loss:.4f}", f"{hours:.1f}"))
    head = ("stage", "steps", "samples", "peak rate", f"loss, last {LAST} rows of the log", "hours")
    note = "AdamW; the weights are exponential moving averages (0.9995; autoencoder 0.999). Nothing was merged or pooled."
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
