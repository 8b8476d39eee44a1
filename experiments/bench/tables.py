"""The tables of a measurement, as rows of text."""

from collections.abc import Sequence
from typing import Any

from ..results.tables import DASH
from .config import Bench
from .peers import TOMESD
from .scaling import ended_by
from .speed_goals import Bar
from .variants import BASE, FLOOR

Row = dict[str, Any]


def time_table(rows: Sequence[Row]) -> list[list[str]]:
    """Header and a row per variant: times, and paired ratios with 95% intervals."""
    peer = any(TOMESD in row["wall_ratio"] for row in rows)
    head = ["variant", "plan every", "ms", "CPU ms", "x base [95%]", "speed-up", f"x {FLOOR}", *["x tomesd package"] * peer]
    return [[*head, "floor's gain kept"], *[[*_name(row), *_times(row, peer)] for row in rows]]


def gate_table(rows: Sequence[Row]) -> list[list[str]]:
    """Header and a row per variant with a gate: sites that merge, the predicted gain and the measured one."""
    head = ["variant", "plan every", "sites that merge", "predicted gain ms", "measured gain ms"]
    gated = [row for row in rows if row["merging_sites"] is not None]
    return [head, *[[*_name(row), "{} of {}".format(*row["merging_sites"]), *_gains(row)] for row in gated]]


def parts_table(rows: Sequence[Row]) -> list[list[str]]:
    """Header and a row per variant: tokens, the parts of the time over all sites, operations, memory."""
    head = ["variant", "plan every", "tokens", "plan ms", "merge ms", "merged layers ms", "unmerge ms", "GFLOP", "peak MiB"]
    return [head, *[_parts(row) for row in rows]]


def flops_table(rows: Sequence[Row]) -> list[list[str]]:
    """Header and a row per variant: operations, and ratios to those of base and floor."""
    head = ["variant", "plan every", "tokens", "GFLOP", "x base", "at most faster", "floor's gain kept"]
    return [head, *[[*_name(row), _tokens(row), *_operations(row)] for row in rows]]


def scaling_tables(rows: Sequence[Row], bench: Bench) -> list[tuple[str, list[list[str]]]]:
    """Titles and tables of planning time and memory by number of tokens, with the fitted exponent.

    Where a curve ended, the limit that the next plan would have exceeded stands in its place.
    """
    titled, sizes = [], sorted({tokens for row in rows for tokens in row["tokens"]})
    for title, key, unit in (("Planning time, ms", "plan", 1.0), ("Peak memory of a plan, MiB", "peak", 2.0**20)):
        values, fitted = ("plan_ms", "time_exponent") if key == "plan" else ("peak_bytes", "memory_exponent")
        head = ["strategy", *[f"{tokens:,}" for tokens in sizes], "grows as N^"]
        table = [head]
        for row in rows:
            by_size = [_number(value, 1, unit) for value in row[values]]
            ended = ended_by(row, bench) or DASH
            missing = [ended, *[DASH] * len(sizes)][: len(sizes) - len(by_size)]
            table.append([row["variant"], *by_size, *missing, _number(row[fitted], 2)])
        titled.append((title, table))
    return titled


def startup_table(rows: Sequence[Row], bench: Bench) -> list[list[str]]:
    """Header and a row per small cost: value with its interval, limit, and how it is met."""
    table = [["measure", "unit", "value [95%]", "limit", "met"]]
    for row in rows:
        bar = None if row["limit"] is None else Bar(row["limit"])
        met = [DASH, DASH] if bar is None else [str(bar), bar.met(row["value"], bench.rounds)]
        table.append([row["measure"], row["unit"], _between(row["value"]), *met])
    return table


def log_sizes_table(rows: Sequence[Row]) -> list[list[str]]:
    """Header and a row for every role and way: the kernel that ran, its time, and the paired ratio to no log sizes."""
    head = ["role", "log sizes", "kernel", "ms", "x none [95%]"]
    return [head, *[[r["role"], r["way"], r["kernel"], _number(r["ms"][0], 2), _between(r["ratio"])] for r in rows]]


def _times(row: Row, peer: bool) -> list[str]:
    to = row["wall_ratio"]
    floor = next((ratio[0] for name, ratio in to.items() if name.startswith(FLOOR)), None)
    columns = [
        _number(row["wall_ms"], 1),
        _number(row["cpu_ms"], 1),
        _between(to[BASE]),
        f"{row['speedup']:.2f}",
        _number(floor, 3),
    ]
    return [*columns, *([_number(to[TOMESD][0], 3)] if peer else []), _percent(row["share"] and row["share"][0])]


def _parts(row: Row) -> list[str]:
    parts = [_number(row[f"{part}_ms"], 2) for part in ("plan", "merge", "attention", "unmerge")]
    return [*_name(row), _tokens(row), *parts, _number(row["flops"], 1, 1e9), _number(row["peak_bytes"], 0, 2**20)]


def _gains(row: Row) -> list[str]:
    return [_number(row["predicted_gain_ms"], 1), _number(row["gain_ms"], 1)]


def _operations(row: Row) -> list[str]:
    faster = 1 / row["flops_ratio"]
    numbers = [_number(row["flops"], 1, 1e9), _number(row["flops_ratio"], 3), f"{faster:.2f}x"]
    return [*numbers, _percent(row["flops_share"])]


def _name(row: Row) -> list[str]:
    return [row["variant"], DASH if row["refresh"] is None else str(row["refresh"])]


def _tokens(row: Row) -> str:
    return DASH if row["tokens"] is None else f"{row['tokens']:,} → {row['kept']:,}"


def _between(interval: Sequence[float]) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*interval)


def _number(value: float | None, digits: int, unit: float = 1.0) -> str:
    return DASH if value is None else f"{value / unit:,.{digits}f}"


def _percent(share: float | None) -> str:
    return DASH if share is None else f"{100 * share:.0f}%"
