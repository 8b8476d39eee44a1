"""Means over the pictures of every cell."""

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..files import write_atomically

Row = dict[str, Any]
MEANS = ("tokens_before", "tokens_after", "asked", "granted", "seconds")


def newest(rows: Iterable[Row]) -> list[Row]:
    """The last row of every cell, prompt and seed, in the order of their first."""
    return list({(row["cell"], row["prompt"], row["seed"]): row for row in rows}.values())


def summarize(rows: Iterable[Row], metrics: Iterable[str]) -> list[Row]:
    """A line a cell: its means, its notes and n, the number of its pictures.

    Raises:
        ValueError: one metric was made by different networks.
    """
    by_cell: dict[str, list[Row]] = {}
    for row in newest(rows):
        by_cell.setdefault(row["cell"], []).append(row)
    _check_makers([row for group in by_cell.values() for row in group])
    return [_line(cell, group, [*MEANS, *metrics]) for cell, group in by_cell.items()]


def mean(values: Iterable[Any]) -> float | None:
    """The mean of what is there; infinite if a value is ("inf" in JSON); None of nothing."""
    numbers = [float(value) for value in values if value is not None]
    return math.fsum(numbers) / len(numbers) if numbers else None


def write_csv(path: Path, lines: list[Row]) -> None:
    """Write lines of equal keys, lists left out."""
    text = io.StringIO()
    keys = [key for key in lines[0] if not isinstance(lines[0][key], list)]
    writer = csv.DictWriter(text, keys, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_atomically(path, text.getvalue().encode())


def _check_makers(rows: list[Row]) -> None:
    makers: dict[str, str] = {}
    for row in rows:
        for metric, maker in row.get("made_by", {}).items():
            if makers.setdefault(metric, maker) != maker:
                raise ValueError(f"{metric} was made by {makers[metric]} and by {maker}: they cannot stand in one column")


def _line(cell: str, group: list[Row], columns: list[str]) -> Row:
    first = group[0]
    means = {column: mean(row.get(column) for row in group) for column in columns}
    notes = sorted({note for row in group for note in row.get("notes", [])})
    return {
        "cell": cell,
        "strategy": first["strategy"],
        "role": first["role"],
        "n": len(group),
        **means,
        "notes": notes,
    }
