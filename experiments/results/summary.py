"""Means over the images of every cell."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import write_atomically
from ..reading import read_text
from .row import Row, by_cell, newest

MEANS = ("tokens_before", "tokens_after", "asked", "granted", "seconds")


@dataclass(frozen=True)
class Line:
    """The means of a cell; None where nothing was measured.

    Args:
        cell: its name.
        strategy: repr of the strategy, "base" for a base.
        role: "base", "control" or "cell".
        n: number of images.
        tokens_before: as in :class:`.Row`, like all that is not explained here.
        steps: denoising steps in which anything was merged.
        plan_every: steps that a plan served.
        metrics: means by metric; infinite if one image's is.
        notes: of all images, each once.
    """

    cell: str
    strategy: str
    role: str
    n: int
    tokens_before: float | None
    tokens_after: float | None
    asked: float | None
    granted: float | None
    steps: float | None
    plan_every: float | None
    seconds: float | None
    metrics: Mapping[str, float | None]
    notes: list[str]

    def numbers(self) -> dict[str, Any]:
        """Everything but the notes, in one flat mapping."""
        flat = {name: value for name, value in vars(self).items() if name not in ("metrics", "notes")}
        return flat | dict(self.metrics)


def summarize(rows: Iterable[Row], metrics: Sequence[str]) -> list[Line]:
    """A line for every cell.

    Args:
        rows: of one run.
        metrics: names of the metrics to average.

    Raises:
        ValueError: different networks computed one metric.
    """
    cells = by_cell(newest(rows))
    _check_makers(row for group in cells.values() for row in group)
    return [_line(group, metrics) for group in cells.values()]


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are there; None if there are none."""
    numbers = [float(value) for value in values if value is not None]
    return math.fsum(numbers) / len(numbers) if numbers else None


def write_csv(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write lines that all have the same keys."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_atomically(path, text.getvalue().encode())


def read_csv(path: Path) -> list[dict[str, str]]:
    """The lines of a file that :func:`write_csv` wrote, as text."""
    return list(csv.DictReader(io.StringIO(read_text(path), newline="")))


def _check_makers(rows: Iterable[Row]) -> None:
    makers: dict[str, str] = {}
    for row in rows:
        for metric, maker in row.made_by.items():
            if makers.setdefault(metric, maker) != maker:
                raise ValueError(
                    f"expected one network for {metric}, got {makers[metric]} and {maker}: their means do not compare"
                )


def _line(group: Sequence[Row], metrics: Sequence[str]) -> Line:
    first = group[0]
    return Line(
        cell=first.cell,
        strategy=first.strategy,
        role=first.role,
        n=len(group),
        **{name: mean(getattr(row, name) for row in group) for name in MEANS},
        steps=mean(len(row.kept) or None for row in group),
        plan_every=mean(row.plan_every() for row in group),
        metrics={name: mean(row.metrics.get(name) for row in group) for name in metrics},
        notes=sorted({note for row in group for note in row.notes}),
    )
