"""Signs of a merge that failed: each with how to read it and every cell's number."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..results import comparison
from ..results.contents import Contents, Interval, Row
from ..results.curves import curve, jump
from ..results.numbers import between, decimals, show
from ..results.tables import DASH

DETAIL = """Likeness of the amount of fine detail to the base's: 1 is as much as the base has. Clearly below 1, texture and edges
were averaged away (over-merged), or seams and noise were added: the pictures tell which. Judged against the control's."""
BACKGROUND = """Root-mean-square change, in grey levels of 0 to 255, where the base is flat. Large: plain areas became blotchy or
changed colour. The base has none, so a number is judged against the control's, and by looking at the pictures."""
JUMP = """The largest increase, from one step to the next, of the distance of the latents from the base's (the curves above). Many
times the median increase: something happened at that step. A plan got old or was made anew, a window or a ratio switched."""
WORSE = """The cell's score minus the base's at the same prompt and seed. On the worse side of 0 the picture shows its prompt less
well than without merging; near 0 it may differ from the base and yet be as good."""
WORSE_SET = """The cell's value minus the base's own, both against the same real pictures. Above 0 the pictures as a set are less
like real ones than without merging. Bold: the two intervals do not overlap."""
Sign = tuple[str, str, bool]


@dataclass(frozen=True)
class Signature:
    """One way to fail.

    Args:
        name: what to look for.
        told: how to read the numbers, one sentence or two.
        cells: by cell what is shown, a small line below it, and whether it is worse than the base's beyond chance.
    """

    name: str
    told: str
    cells: dict[str, Sign]


def signatures(contents: Contents) -> list[Signature]:
    """The signs that the run measured."""
    found = [Signature("over-merged detail", DETAIL, _measured(contents, "detail"))]
    found += [Signature("incoherent background", BACKGROUND, _measured(contents, "background"))]
    found += [Signature("a jump at some timestep", JUMP, _jumps(contents))]
    scores = [name for name in ("text", "clip") if name in contents.metrics]
    found += [
        Signature(f"worse than base: {contents.metrics[name].label}", WORSE, _minus_base(contents, name)) for name in scores
    ]
    sets = contents.set_metrics.items()
    found += [Signature(f"worse than base: {metric.label}", WORSE_SET, _set_minus_base(contents, name)) for name, metric in sets]
    return [one for one in found if one.cells]


def not_measured(contents: Contents) -> list[str]:
    """The metrics that would show more signs."""
    return [name for name in ("detail", "background", "text") if name not in contents.metrics]


def _measured(contents: Contents, name: str) -> dict[str, Sign]:
    values = {cell: contents.interval(cell, name) for cell in contents.merged} if name in contents.metrics else {}
    return _shown(values, lambda low, high: False)  # no cell can be better than the base here, so chance is no bar


def _jumps(contents: Contents) -> dict[str, Sign]:
    curves = {cell: curve(contents.cells[cell], "drift") for cell in contents.merged}
    found = {cell: jump(one.mean) for cell, one in curves.items() if one is not None}
    digits = decimals(rise for _, rise, _ in found.values())
    times = {cell: f"{rise / median:.1f} times the median" if median > 0 else "" for cell, (_, rise, median) in found.items()}
    return {cell: (f"{show(rise, digits, True)} at step {step}", times[cell], False) for cell, (step, rise, _) in found.items()}


def _minus_base(contents: Contents, name: str) -> dict[str, Sign]:
    sign = 1 if contents.metrics[name].better == "higher" else -1
    values = {cell: comparison.interval(_differences(contents, cell, name), name) for cell in contents.merged}
    return _shown(values, lambda low, high: max(sign * low, sign * high) < 0, sign=True)


def _differences(contents: Contents, cell: str, name: str) -> list[Row]:
    """Rows of the cell with what a metric has there minus what it has for their bases."""
    bases = {row["job"]: float(row[name]) for row in contents.rows if row["role"] == "base" and row.get(name) is not None}
    rows = [row for row in contents.cells[cell] if row.get(name) is not None and row["base"] in bases]
    return [row | {name: float(row[name]) - bases[row["base"]]} for row in rows]


def _set_minus_base(contents: Contents, name: str) -> dict[str, Sign]:
    bases = {cell: contents.set_value(contents.base_of(cell) or "", name) for cell in contents.merged}
    pairs = [(cell, contents.set_value(cell, name), bases[cell]) for cell in contents.merged]
    both = [(cell, own, base) for cell, own, base in pairs if own and base]
    digits = decimals(base["value"] for _, _, base in both)
    return {cell: _beside(own, base, digits) for cell, own, base in both}


def _beside(own: dict[str, float], base: dict[str, float], digits: int) -> Sign:
    difference = show(own["value"] - base["value"], digits, True)
    return difference, f"base {show(base['value'], digits)}", own["low"] > base["high"]


def _shown(values: dict[str, Interval], off: Callable[[float, float], bool], sign: bool = False) -> dict[str, Sign]:
    digits = decimals(mean for mean, _, _ in values.values())
    cells = {cell: (show(mean, digits, sign), between(low, high, digits), math.isfinite(low) and off(low, high))
             for cell, (mean, low, high) in values.items()}  # fmt: skip
    return {cell: one for cell, one in cells.items() if one[0] != DASH}
