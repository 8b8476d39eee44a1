"""The tables of the project's speed, computed from the records of ``mergekit-diff bench --json``: goals, and planning by size.

``python -m mergekit_diff.experiments.bench.speed_table FOLDER TEXT`` pastes it between the markers of that folder in a text.
"""

import json
import sys
from pathlib import Path

from ..files import write_atomically
from ..results.pasting import paste_tables
from ..results.tables import markdown
from .command import title
from .config import Bench
from .speed_goals import ROUNDS, Record, goals
from .tables import log_sizes_table, scaling_tables, time_table

TITLE = (
    "Speed, each line from one interleaved run; medians, and their 95% interval where there are at least six rounds. An interval "
    f"is held against a goal where there are at least {ROUNDS}"
)


PLANNING = ("scaling", "scaling-3d", "scaling-1d")
"""Records of planning on grids of 2, 3 and 1 axes; all but the first may be missing."""
BLOCKS = "block-*.json"
"""Records of one block of each kind of a transformer; there may be none."""
LOG_SIZES = "log-sizes-*.json"
"""Records of one attention with log sizes; there may be none."""


def table(folder: Path) -> str:
    """All tables, and the machines that they were measured on.

    Raises:
        ValueError: a record is missing.
    """
    records = {goal.record: _read(folder / f"{goal.record}.json") for goal in goals()}
    lines = [goal.line(records[goal.record]) for goal in goals()]
    records |= {name: _read(path) for name in PLANNING if (path := folder / f"{name}.json").is_file()}
    single = {path.stem: _read(path) for pattern in (BLOCKS, LOG_SIZES) for path in sorted(folder.glob(pattern))}
    records |= single
    machines = dict.fromkeys(_machine(record) for record in records.values())
    planning = "".join(f"\n{text}" for name in PLANNING if name in records for text in _planning(name, records[name]))
    single_times = "".join(f"\n{_single(name, record)}" for name, record in single.items())
    head = ["measure", "value", "goal", "met", "rounds", "record"]
    return markdown(TITLE, [head, *lines]) + single_times + planning + f"\nMachine: {'; '.join(machines)}.\n"


def _planning(name: str, record: Record) -> list[str]:
    bench = Bench(**record["bench"])
    where = f"{bench.grid_axes()}-D grids, width of {bench.size}, batch {bench.batch}, ratio {bench.ratio}"
    tables = scaling_tables(record["rows"], bench)
    return [markdown(f"{what} by number of tokens, {where} (record `{name}`)", table) for what, table in tables]


def _single(name: str, record: Record) -> str:
    bench = Bench(**record["bench"])
    draw = log_sizes_table if bench.what == "log-sizes" else time_table
    return markdown(f"{title(bench)}; medians of {bench.rounds} rounds (record `{name}`)", draw(record["rows"]))


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
