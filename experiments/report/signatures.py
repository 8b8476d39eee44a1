"""Signs of a merge that failed: for each how to read it, and every cell's number."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ..metrics import metrics
from ..results import pairing
from ..results.curves import curve, jump
from ..results.numbers import DASH, between, decimals, show
from ..results.row import Row
from ..results.run import Interval, Run

DETAIL = """Amount of fine detail compared with the base's: 1 is the same amount. Clearly below 1, either texture and edges
were averaged away (over-merged), or seams and noise were added: look at the images. Compare it with the control's."""
BACKGROUND = """Root-mean-square change, in grey levels of 0 to 255, where the base is flat. A large value means that plain areas
became blotchy or changed colour. The base has no value, so compare a cell with the control and look at the images."""
FLICKER = """How much the error, cell minus base, changes from frame to frame, in grey levels of 0 to 255. A large value means
that the video flickers where the base does not, or moves otherwise. The base has no value, so compare a cell with the control."""
JUMP = """The largest increase from one step to the next of the distance of the latents from the base's (curves above). If it is
many times the median increase, something happened at that step: a plan grew old or was replaced, a window or a ratio changed."""
WORSE = """The cell's score minus the base's at the same prompt and seed. On the worse side of 0, the image shows its prompt less
well than without merging; near 0, it may differ from the base and still be as good."""
WORSE_SET = """The cell's value minus the base's, both against the same real images. Above 0, the images as a set are less
like real ones than without merging. Bold: the two intervals do not overlap."""
Sign = tuple[str, str, bool]
"""A number as text, a small line below it, and whether it is worse than the base's beyond chance."""


@dataclass(frozen=True)
class Signature:
    """One way to fail.

    Args:
        name: what to look for.
        reading: how to read the numbers, one or two sentences.
        cells: the sign of every cell that has one.
    """

    name: str
    reading: str
    cells: dict[str, Sign]


def signatures(run: Run) -> list[Signature]:
    """The signs that the run measured."""
    every = [Signature("over-merged detail", DETAIL, _measured(run, "detail"))]
    every += [Signature("incoherent background", BACKGROUND, _measured(run, "background"))]
    every += [Signature("flicker", FLICKER, _measured(run, "flicker"))]
    every += [Signature("a jump at one timestep", JUMP, _jumps(run))]
    scores = [name for name in ("text", "clip") if name in run.metrics]
    every += [Signature(f"worse than the base: {run.metrics[name].label}", WORSE, _minus_base(run, name)) for name in scores]
    sets = run.set_metrics.items()
    every += [Signature(f"worse than the base: {metric.label}", WORSE_SET, _set_minus_base(run, name)) for name, metric in sets]
    return [one for one in every if one.cells]


def not_measured(run: Run) -> list[str]:
    """The metrics that would show more signs."""
    names = ("detail", "background", "text", "flicker")
    return [name for name in names if name not in run.metrics and run.task.name in metrics()[name].tasks]


def _measured(run: Run, name: str) -> dict[str, Sign]:
    values = {cell: run.interval(cell, name) for cell in run.merged} if name in run.metrics else {}
    return _signs(values, lambda low, high: False)  # no cell can beat the base here, so no interval says that one is worse


def _jumps(run: Run) -> dict[str, Sign]:
    curves = {cell: curve(run.cells[cell], "drift") for cell in run.merged}
    jumps = {cell: jump(one.mean) for cell, one in curves.items() if one is not None}
    digits = decimals(rise for _, rise, _ in jumps.values())
    times = {cell: f"{rise / median:.1f} times the median" if median > 0 else "" for cell, (_, rise, median) in jumps.items()}
    return {cell: (f"{show(rise, digits, True)} at step {step}", times[cell], False) for cell, (step, rise, _) in jumps.items()}


def _minus_base(run: Run, name: str) -> dict[str, Sign]:
    sign = 1 if run.metrics[name].better == "higher" else -1
    values = {cell: pairing.interval(_differences(run, cell, name), name) for cell in run.merged}
    return _signs(values, lambda low, high: max(sign * low, sign * high) < 0, sign=True)


def _differences(run: Run, cell: str, name: str) -> list[Row]:
    """Rows of the cell in which a metric is its own value minus that of its base."""
    bases = {row.job: row.metrics[name] for row in run.rows if row.role == "base" and name in row.metrics}
    rows = [row for row in run.cells[cell] if name in row.metrics and row.base in bases]
    return [replace(row, metrics={name: row.metrics[name] - bases[row.base]}) for row in rows]


def _set_minus_base(run: Run, name: str) -> dict[str, Sign]:
    bases = {cell: run.set_value(run.base_of(cell) or "", name) for cell in run.merged}
    pairs = [(cell, run.set_value(cell, name), bases[cell]) for cell in run.merged]
    both = [(cell, own, base) for cell, own, base in pairs if own and base]
    digits = decimals(base["value"] for _, _, base in both)
    return {cell: _minus(own, base, digits) for cell, own, base in both}


def _minus(own: Mapping[str, float], base: Mapping[str, float], digits: int) -> Sign:
    difference = show(own["value"] - base["value"], digits, True)
    return difference, f"base {show(base['value'], digits)}", own["low"] > base["high"]


def _signs(values: Mapping[str, Interval], worse: Callable[[float, float], bool], sign: bool = False) -> dict[str, Sign]:
    digits = decimals(mean for mean, _, _ in values.values())
    signs = {cell: (show(mean, digits, sign), between(low, high, digits), math.isfinite(low) and worse(low, high))
             for cell, (mean, low, high) in values.items()}  # fmt: skip
    return {cell: one for cell, one in signs.items() if one[0] != DASH}
