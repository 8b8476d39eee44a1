"""Turns seconds and counts into rows: medians, paired ratios with intervals, the share of the floor's gain."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .peers import TOMESD
from .timing import PARTS, Counts, Times
from .variants import BASE, Variant

Series = dict[str, NDArray[np.float64]]
Interval = list[float]
"""Median over the rounds, and the bounds of its 95% interval if there are enough rounds for one."""


def rows_of(variants: Sequence[Variant], refresh: Sequence[int], counts: Mapping[str, Counts], times: Times | None) -> list[dict]:
    """A row per variant, for a strategy one per refresh; ratios pair what was measured in the same round.

    Args:
        variants: in the order of the table; the first is the base.
        refresh: how many steps share a plan; times and operations are means over them.
        counts: of every variant.
        times: of every variant; None if nothing was timed.
    """
    rows = []
    for variant, steps in _lines(variants, refresh):
        row = {"variant": variant.name, "refresh": steps} | _counted(variant, steps, counts)
        row |= _timed(variant, steps, times) if times is not None else {}
        rows.append(row | _gated(variant))
    return rows


def paired(x: NDArray[np.float64], to: NDArray[np.float64]) -> Interval:
    """Median of the ratio of two variants, round by round, with its interval."""
    return interval(x / to)


def interval(values: NDArray[np.float64]) -> Interval:
    """The median of one value a round, and the two of them that hold it with 95% probability, whatever their distribution."""
    from scipy.stats import binom

    outside = int(binom.ppf(0.025, len(values), 0.5))  # how many of the smallest, and of the largest
    ordered = np.sort(values)
    return [float(np.median(values)), *(float(ordered[i]) for i in (outside - 1, -outside) if outside)]


def share_of_gain(base: NDArray[np.float64], x: NDArray[np.float64], floor: NDArray[np.float64]) -> Interval | None:
    """The share of the floor's saving that a variant saves, (base - x) / (base - floor), round by round, with its interval.

    None if the floor's saving is not distinguishable from zero.
    """
    return None if paired(floor, base)[-1] >= 1 else share_of(base, x, floor)


def share_of(base: NDArray[np.float64], x: NDArray[np.float64], best: NDArray[np.float64]) -> Interval:
    """The share of one variant's saving that another one saves, (base - x) / (base - best), round by round, with its interval."""
    return interval((base - x) / (base - best))


def amortised(fresh: float | NDArray[np.float64], kept: float | NDArray[np.float64], steps: int) -> Any:  # noqa: ANN401
    """The mean over ``steps`` calls, the first of which makes the plan."""
    return (fresh + (steps - 1) * kept) / steps


def series(times: Times, name: str, steps: int | None) -> Series:
    """A variant's seconds in every round, by what was timed; the mean over ``steps`` calls where it keeps a plan."""
    fresh, kept = times[name]["fresh"], times[name].get("kept")
    arrays = {key: np.array([seconds[key] for seconds in fresh]) for key in fresh[0]}
    if kept is None or not steps:
        return arrays
    return {key: amortised(values, np.array([seconds[key] for seconds in kept]), steps) for key, values in arrays.items()}


def _lines(variants: Sequence[Variant], refresh: Sequence[int]) -> list[tuple[Variant, int | None]]:
    lines: list[tuple[Variant, int | None]] = []
    for variant in variants:
        if variant.floor in (None, variant.name):
            lines.append((variant, None))
        else:
            lines += [(variant, steps) for steps in refresh]
    return lines


def _counted(variant: Variant, steps: int | None, counts: Mapping[str, Counts]) -> dict[str, Any]:
    own, floor = counts[variant.name], variant.floor and counts[variant.floor].flops["fresh"]
    base = counts[BASE].flops["fresh"]
    flops = amortised(own.flops["fresh"], own.flops.get("kept", 0), steps or 1)
    return {
        "tokens": own.tokens[0] or None,
        "kept": own.tokens[1] if own.tokens[0] else None,
        "flops": flops,
        "flops_ratio": flops / base,
        "flops_share": (base - flops) / (base - floor) if floor and floor < base else None,
        "peak_bytes": own.peak_bytes,
    }


def _gated(variant: Variant) -> dict[str, Any]:
    """What a gate decided: how many sites merge, of how many, and their total predicted gain in milliseconds."""
    if variant.gates is None:
        return {"merging_sites": None, "predicted_gain_ms": None}
    open_ = [each for each in variant.gates.values() if each["merges"]]
    gain = sum(each["saves_ms"] - each["costs_ms"] for each in open_)
    return {"merging_sites": [len(open_), len(variant.gates)], "predicted_gain_ms": gain}


def _timed(variant: Variant, steps: int | None, times: Times) -> dict[str, Any]:
    own = series(times, variant.name, steps)
    row: dict[str, Any] = {f"{key}_ms": 1000 * float(np.median(own[key])) for key in ("wall", "cpu", *PARTS)}
    against = [name for name in dict.fromkeys([BASE, variant.floor, TOMESD]) if name in times]
    for key in ("wall", "cpu"):
        row[f"{key}_ratio"] = {name: paired(own[key], series(times, name, steps or 1)[key]) for name in against}
    row["gain_ms"] = 1000 * float(np.median(series(times, BASE, 1)["wall"] - own["wall"]))
    row["speedup"] = 1 / row["wall_ratio"][BASE][0]
    base, floor = (series(times, name, 1)["wall"] for name in (BASE, variant.floor or BASE))
    row["share"] = share_of_gain(base, own["wall"], floor)
    return row
