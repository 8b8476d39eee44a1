"""The table of a run: a line a cell, what was merged, what it cost, what became of the pictures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..metrics import Metric
from ..results.contents import Contents
from ..results.numbers import between, decimals, show
from ..results.tables import DASH

Value = float | None
Cell = tuple[str, str, float | str]
TIMES = {"plan_ms": "plan", "merge_ms": "merge", "unmerge_ms": "unmerge", "attention_ms": "attention"}


@dataclass(frozen=True)
class Column:
    """A heading and a cell a line.

    Args:
        head: the heading.
        dim: a second, smaller line of the heading: unit or origin.
        cells: what is shown, a small line below it, and what the column is sorted by.
        text: whether it holds words, which stand on the left.
    """

    head: str
    dim: str
    cells: Sequence[Cell]
    text: bool = False


def columns(contents: Contents) -> list[Column]:
    """All columns that have a number in them."""
    cells = list(contents.cells)
    lines = {line["cell"]: line for line in contents.lines}
    counts = [lines[cell] for cell in cells]
    found = [
        Column("#", "", [(contents.marks[cell], "", i) for i, cell in enumerate(cells)]),
        Column("cell", "", [(cell, _against(contents, cell), cell) for cell in cells], text=True),
        Column("n", "pictures", [(str(line["n"]), "", line["n"]) for line in counts]),
        Column("tokens a call", "before → after", [_tokens(line) for line in counts]),
        Column("ratio", "asked", [(show(line["asked"], 3), "", _order(line["asked"])) for line in counts]),
        Column("ratio", "granted", [(show(line["granted"], 3), "", _order(line["granted"])) for line in counts]),
    ]
    found += [_measured(contents, name, metric) for name, metric in contents.metrics.items()]
    found += [_of_sets(contents, name, metric) for name, metric in contents.set_metrics.items()]
    found += [_plain("time", "s an image", [line["seconds"] for line in counts]), *_costs(contents, cells)]
    return [column for column in found if any(shown != DASH for shown, _, _ in column.cells)]


def _against(contents: Contents, cell: str) -> str:
    row = contents.cells[cell][0]
    against = row.get("against")
    if against is not None and against != cell:
        return f"against {contents.marks.get(against, against)}"
    return "control" if row["role"] == "control" else ""


def _tokens(line: dict[str, Any]) -> Cell:
    before, after = line["tokens_before"], line["tokens_after"]
    return (DASH, "", math.inf) if before is None else (f"{before:,.0f} → {after:,.0f}", "", after)


def _measured(contents: Contents, name: str, metric: Metric) -> Column:
    values = [contents.interval(cell, name) for cell in contents.cells]
    digits = decimals(mean for mean, _, _ in values)
    makers = dict.fromkeys(row.get("made_by", {}).get(name, "") for row in contents.rows if row.get(name) is not None)
    shown = [(show(mean, digits), between(low, high, digits), _order(mean)) for mean, low, high in values]
    primary = contents.primary is not None and contents.primary.metric == name
    return Column(_head(metric) + (" (primary)" if primary else ""), "; ".join(filter(None, makers)), shown)


def _of_sets(contents: Contents, name: str, metric: Metric) -> Column:
    found = [contents.set_value(cell, name) for cell in contents.cells]
    digits = decimals(one["value"] for one in found if one)
    told = dict.fromkeys(_of_set(one, digits) for one in found if one)
    none = (DASH, "", math.inf)
    shown = [
        (show(one["value"], digits), between(one["low"], one["high"], digits), one["value"]) if one else none for one in found
    ]
    return Column(_head(metric), " | ".join(told), shown)


def _of_set(one: dict[str, Any], digits: int) -> str:
    return f"{one['made_by']}; floor {show(one['floor'], digits)}; {one['n']} against {one['reference_n']} pictures"


def _costs(contents: Contents, cells: list[str]) -> list[Column]:
    costs = [contents.costs.get(cell, {}) for cell in cells]
    steps: list[dict[str, float]] = [cost.get("step_seconds") or {} for cost in costs]
    times = [_plain(label, "ms a call", [cost.get(key) for cost in costs]) for key, label in TIMES.items()]
    compute = _plain("compute", "GFLOPs a call", [_scaled(cost.get("flops"), 1e-9) for cost in costs])
    memory = _plain("memory", "peak MiB", [_scaled(cost.get("peak_bytes"), 1 / 2**20) for cost in costs])
    return [compute, _step_times(steps), *times, memory]


def _step_times(steps: list[dict[str, float]]) -> Column:
    digits = decimals(1000 * step["median"] for step in steps if step)
    return Column("step", "ms, median", [_step_time(step, digits) if step else (DASH, "", math.inf) for step in steps])


def _step_time(step: dict[str, float], digits: int) -> Cell:
    median, low, high = (1000 * step[key] for key in ("median", "low", "high"))
    return show(median, digits), between(low, high, digits), median


def _plain(head: str, dim: str, values: list[Value]) -> Column:
    digits = decimals(values)
    return Column(head, dim, [(show(value, digits), "", _order(value)) for value in values])


def _head(metric: Metric) -> str:
    return f"{metric.label}{f' {metric.unit}' if metric.unit else ''} {'↑' if metric.better == 'higher' else '↓'}"


def _scaled(value: Value, factor: float) -> Value:
    return None if value is None else value * factor


def _order(value: Value) -> float:
    """What a column is sorted by: what was not measured goes last."""
    return math.inf if value is None or math.isnan(value) else value
