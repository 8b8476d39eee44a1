"""The table of the project's speed goals, computed from the records of ``mergekit-diff bench --json``.

``python -m mergekit_diff.experiments.bench.speed_table FOLDER TEXT`` pastes it between the markers of that folder in a text.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_atomically
from ..results.pasting import paste_tables
from ..results.tables import DASH, markdown
from .peers import TOMESD
from .results import Interval, paired, series, share_of, share_of_gain
from .variants import BASE, FLOOR, GATED

Record = Mapping[str, Any]
TITLE = "Speed, each line from one interleaved run; medians, and their 95% interval where there are at least six rounds"


@dataclass(frozen=True)
class Goal:
    """A row of the table.

    Args:
        measure: what is measured.
        record: the file, without its suffix, that it is computed from.
        value: from the record: median and bounds of its interval, or one number.
        goal: as text.
    """

    measure: str
    record: str
    value: Callable[[Record], Sequence[float]]
    goal: str


def goals() -> list[Goal]:
    """Every row, in the order of the table."""
    large, medium, small = (f"{side}x{side}, batch {batch}, U-Net step" for side, batch in ((1024, 1), (512, 2), (256, 2)))
    gain = f"{large}: share of the floor's gain kept"
    return [
        Goal(
            "merge + unmerge, 4,096 tokens: retom-paper / tomesd package",
            "layer",
            _of_parts("retom-paper", "merge", "unmerge"),
            "≤ 0.25",
        ),
        Goal("plan, 4,096 tokens: retom-paper / tomesd package", "layer", _of_parts("retom-paper", "plan"), "≤ 0.25"),
        Goal("plan, 16,384 tokens: retom-paper / tomesd package", "scaling", _at("plan_ms", "retom-paper", 16384), "≤ 0.06"),
        Goal(
            "extra memory of that plan: retom-paper / tomesd package", "scaling", _at("peak_bytes", "retom-paper", 16384), "≤ 0.1"
        ),
        Goal("planning time grows as N^, 1,024 to 65,536 tokens: retom-paper", "scaling", _exponent("retom-paper"), "≤ 1.1"),
        Goal("the same: tomesd package", "scaling", _exponent(TOMESD), DASH),
        Goal("attention layer: retom-paper, plan every 20 steps / floor", "layer", _ratio("retom-paper", 20, FLOOR), "≤ 1.03"),
        Goal("attention layer: retom-paper, plan every step / floor", "layer", _ratio("retom-paper", 1, FLOOR), "≤ 1.08"),
        Goal(
            "attention layer: retom-paper, plan every step / tomesd package", "layer", _ratio("retom-paper", 1, TOMESD), "≤ 0.78"
        ),
        Goal(
            "attention layer, keys and values: local-match / tomesd package",
            "layer",
            _ratio("local-match", 1, TOMESD),
            DASH,
        ),
        Goal(f"{gain}: retom-paper, plan every 20 steps", "step-1024", _share("retom-paper", 20), "≥ 0.95"),
        Goal(f"{gain}: retom-paper, plan every step", "step-1024", _share("retom-paper", 1), "≥ 0.90"),
        Goal(f"{gain}: tomesd package", "step-1024", _share(TOMESD, 1), DASH),
        Goal(
            f"{medium}, CPU time: retom-paper, plan every 20 steps / tomesd package",
            "step-512",
            _cpu("retom-paper", 20, TOMESD),
            "interval < 1",
        ),
        Goal(f"{large}: speed-up by local-match", "preset-1024", _speedup("local-match"), "≥ 1.45"),
        Goal(
            f"{large}: local-match / tomesd package, same ratio and levels",
            "preset-1024",
            _ratio("local-match", 1, TOMESD),
            DASH,
        ),
        Goal(f"{medium}: speed-up by local-match", "preset-512", _speedup("local-match"), DASH),
        Goal(
            f"{medium}: local-match / tomesd package, same ratio and levels",
            "preset-512",
            _ratio("local-match", 1, TOMESD),
            DASH,
        ),
        Goal(f"{small}: least speed-up of any strategy behind gate=auto", "gate-256", _slowest_gated, "≥ 0.98"),
        Goal(f"{large}: share of its ungated gain that retom-paper keeps behind gate=auto", "gate-1024", _gated, "≥ 0.97"),
    ]


def table(folder: Path) -> str:
    """The whole table, and the machines it was measured on.

    Raises:
        ValueError: a record is missing.
    """
    records = {goal.record: _read(folder / f"{goal.record}.json") for goal in goals()}
    lines = [[goal.measure, _text(goal.value(records[goal.record])), goal.goal, f"`{goal.record}`"] for goal in goals()]
    machines = dict.fromkeys(_machine(record) for record in records.values())
    return markdown(TITLE, [["measure", "value", "goal", "record"], *lines]) + f"\nMachine: {'; '.join(machines)}.\n"


def _read(path: Path) -> Record:
    if not path.is_file():
        raise ValueError(f"{path} is missing; make it with: mergekit-diff bench ... --json {path}")
    return json.loads(path.read_text(encoding="utf-8"))


def _machine(record: Record) -> str:
    machine = record["machine"]
    return f"{machine['name']}, {machine['threads']} threads, torch {record['versions']['torch']}"


def _text(value: Sequence[float]) -> str:
    middle, *ends = value
    return f"{middle:.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")


def _seconds(record: Record, variant: str, *parts: str, refresh: int | None = None) -> np.ndarray:
    return np.sum([series(record["rounds"], variant, refresh)[part] for part in parts], axis=0)


def _of_parts(variant: str, *parts: str) -> Callable[[Record], Interval]:
    return lambda record: paired(_seconds(record, variant, *parts), _seconds(record, TOMESD, *parts))


def _row(record: Record, variant: str) -> Mapping[str, Any]:
    return next(row for row in record["rows"] if row["variant"] == variant)


def _at(column: str, variant: str, tokens: int) -> Callable[[Record], Sequence[float]]:
    def value(record: Record) -> Sequence[float]:
        own, peer = (_row(record, name) for name in (variant, TOMESD))
        return [own[column][own["tokens"].index(tokens)] / peer[column][peer["tokens"].index(tokens)]]

    return value


def _exponent(variant: str) -> Callable[[Record], Sequence[float]]:
    return lambda record: [_row(record, variant)["time_exponent"]]


def _ratio(variant: str, refresh: int, to: str) -> Callable[[Record], Sequence[float]]:
    return lambda record: paired(_seconds(record, variant, "wall", refresh=refresh), _seconds(record, to, "wall"))


def _cpu(variant: str, refresh: int, to: str) -> Callable[[Record], Sequence[float]]:
    return lambda record: paired(_seconds(record, variant, "cpu", refresh=refresh), _seconds(record, to, "cpu"))


def _share(variant: str, refresh: int) -> Callable[[Record], Sequence[float]]:
    def value(record: Record) -> Sequence[float]:
        share = share_of_gain(
            _seconds(record, BASE, "wall"), _seconds(record, variant, "wall", refresh=refresh), _seconds(record, FLOOR, "wall")
        )
        return share or [float("nan")]

    return value


def _speedup(variant: str) -> Callable[[Record], Sequence[float]]:
    return lambda record: paired(_seconds(record, BASE, "wall"), _seconds(record, variant, "wall"))


def _slowest_gated(record: Record) -> Sequence[float]:
    gated = [row["variant"] for row in record["rows"] if row["variant"].endswith(GATED)]
    return min((_speedup(name)(record) for name in gated), key=lambda value: value[0])


def _gated(record: Record) -> Sequence[float]:
    base, open_, gated = (_seconds(record, name, "wall") for name in (BASE, "retom-paper", f"retom-paper {GATED}"))
    return share_of(base, gated, open_)


if __name__ == "__main__":
    records, text = Path(sys.argv[1]), Path(sys.argv[2])
    write_atomically(records / "tables.md", table(records).encode())
    print(paste_tables(records, text))
