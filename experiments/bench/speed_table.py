"""The table of the project's speed goals, computed from the records of ``mergekit-diff bench --json``.

``python -m mergekit_diff.experiments.bench.speed_table FOLDER TEXT`` pastes it between the markers of that folder in a text.
"""

import json
import sys
from pathlib import Path

from ..files import write_atomically
from ..results.pasting import paste_tables
from ..results.tables import markdown
from .speed_goals import ROUNDS, Record, goals

TITLE = (
    "Speed, each line from one interleaved run; medians, and their 95% interval where there are at least six rounds. An interval "
    f"is held against a goal where there are at least {ROUNDS}"
)


def table(folder: Path) -> str:
    """The whole table, and the machines it was measured on.

    Raises:
        ValueError: a record is missing.
    """
    records = {goal.record: _read(folder / f"{goal.record}.json") for goal in goals()}
    lines = [goal.line(records[goal.record]) for goal in goals()]
    machines = dict.fromkeys(_machine(record) for record in records.values())
    head = ["measure", "value", "goal", "met", "rounds", "record"]
    return markdown(TITLE, [head, *lines]) + f"\nMachine: {'; '.join(machines)}.\n"


def _read(path: Path) -> Record:
    if not path.is_file():
        raise ValueError(f"{path} is missing; make it with: mergekit-diff bench ... --json {path}")
    return json.loads(path.read_text(encoding="utf-8"))


def _machine(record: Record) -> str:
    machine = record["machine"]
    return f"{machine['name']}, {machine['threads']} threads, torch {record['versions']['torch']}"


if __name__ == "__main__":
    records, text = Path(sys.argv[1]), Path(sys.argv[2])
    write_atomically(records / "tables.md", table(records).encode())
    print(paste_tables(records, text))
