"""The table of a run: tokens, ratios, fidelity, quality and cost of every cell."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..metrics import Metric
from ..results.numbers import DASH, between, decimals, show
from ..results.run import Run
from ..results.summary import Line
from ..results.tables import plan_every

Entry = tuple[str, str, float | str]
"""One table cell: its text, a small line below it, and what the column is sorted by."""
NOTHING: Entry = (DASH, "", math.inf)
TIMES = {"plan_ms": "plan", "merge_ms": "merge", "unmerge_ms": "unmerge", "attention_ms": "attention"}


@dataclass(frozen=True)
class Column:
    """A heading and an entry for every cell of the study.

    Args:
        head: the heading.
        dim: a second, smaller line of the heading: unit or origin.
        entries: one for every cell of the study.
        text: whether it holds words, which are aligned to the left.
    """

    head: str
    dim: str
    entries: Sequence[Entry]
    text: bool = False


def columns(run: Run) -> list[Column]:
    """All columns that have a value in them."""
    cells = list(run.cells)
    lines = [run.lines[cell] for cell in cells]
    every = [
        Column("#", "", [(run.marks[cell], "", i) for i, cell in enumerate(cells)]),
        Column("cell", "", [(cell, _against(run, cell), cell) for cell in cells], text=True),
        Column("n", f"{run.noun}s", [(str(line.n), "", line.n) for line in lines]),
        Column("tokens a call", "before → after", [_tokens(line) for line in lines]),
        Column("ratio", "asked", [(show(line.asked, 3), "", _order(line.asked)) for line in lines]),
        Column("ratio", "granted", [(show(line.granted, 3), "", _order(line.granted)) for line in lines]),
        Column("plan every", "steps", [(plan_every(line), "", _order(line.plan_every)) for line in lines]),
    ]
    every += [_measured(run, name, metric) for name, metric in run.metrics.items()]
    every += [_of_sets(run, name, metric) for name, metric in run.set_metrics.items()]
    every += [_plain("time", f"s/{run.noun}", [line.seconds for line in lines]), *_costs(run, cells)]
    return [column for column in every if any(text != DASH for text, _, _ in column.entries)]


def _against(run: Run, cell: str) -> str:
    row = run.cells[cell][0]
    if row.against is not None and row.against != cell:
        return f"against {run.marks.get(row.against, row.against)}"
    return "control" if row.role == "control" else ""


def _tokens(line: Line) -> Entry:
    before, after = line.tokens_before, line.tokens_after
    return NOTHING if before is None or after is None else (f"{before:,.0f} → {after:,.0f}", "", after)


def _measured(run: Run, name: str, metric: Metric) -> Column:
    values = [run.interval(cell, name) for cell in run.cells]
    digits = decimals(mean for mean, _, _ in values)
    makers = dict.fromkeys(row.made_by.get(name, "") for row in run.rows if name in row.metrics)
    entries = [(show(mean, digits), between(low, high, digits), _order(mean)) for mean, low, high in values]
    primary = run.primary is not None and run.primary.metric == name
    return Column(_head(metric) + (" (primary)" if primary else ""), "; ".join(filter(None, makers)), entries)


def _of_sets(run: Run, name: str, metric: Metric) -> Column:
    values = [run.set_value(cell, name) for cell in run.cells]
    digits = decimals(value["value"] for value in values if value)
    origins = dict.fromkeys(_origin(value, digits) for value in values if value)
    return Column(_head(metric), " | ".join(origins), [_set_entry(value, digits) for value in values])


def _origin(value: Mapping[str, Any], digits: int) -> str:
    return f"{value['made_by']}; floor {show(value['floor'], digits)}; {value['n']} against {value['reference_n']} images"


def _set_entry(value: Mapping[str, Any] | None, digits: int) -> Entry:
    if value is None:
        return NOTHING
    return show(value["value"], digits), between(value["low"], value["high"], digits), value["value"]


def _costs(run: Run, cells: Sequence[str]) -> list[Column]:
    costs = [run.costs.get(cell, {}) for cell in cells]
    steps: list[dict[str, float]] = [cost.get("step_seconds") or {} for cost in costs]
    times = [_plain(label, "ms a call", [cost.get(key) for cost in costs]) for key, label in TIMES.items()]
    compute = _plain("compute", "GFLOPs a call", [_scaled(cost.get("flops"), 1e-9) for cost in costs])
    memory = _plain("memory", "peak MiB", [_scaled(cost.get("peak_bytes"), 1 / 2**20) for cost in costs])
    large = _plain("cost", f"share of the base's step, {run.large}", [cost.get("share") for cost in costs])
    return [large, compute, _step_times(steps), *times, memory]


def _step_times(steps: Sequence[Mapping[str, float]]) -> Column:
    digits = decimals(1000 * step["median"] for step in steps if step)
    return Column("step", "ms, median", [_step_time(step, digits) if step else NOTHING for step in steps])


def _step_time(step: Mapping[str, float], digits: int) -> Entry:
    median, low, high = (1000 * step[key] for key in ("median", "low", "high"))
    return show(median, digits), between(low, high, digits), median


def _plain(head: str, dim: str, values: Sequence[float | None]) -> Column:
    digits = decimals(values)
    return Column(head, dim, [(show(value, digits), "", _order(value)) for value in values])


def _head(metric: Metric) -> str:
    return f"{metric.label}{f' {metric.unit}' if metric.unit else ''} {'↑' if metric.better == 'higher' else '↓'}"


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _order(value: float | None) -> float:
    """What a column is sorted by: values that were not measured come last."""
    return math.inf if value is None or math.isnan(value) else value
