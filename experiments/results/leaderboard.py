"""The leaderboard: one run a strategy, compared where a step costs the same, by how close each stays to the base.

A board is a folder with a kept run for every strategy, all of one study whose command line names the strategy. Its cells form
curves over the ratio; each curve is read at fixed costs, as :mod:`.families` interpolates, and never extrapolated.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..metrics import metrics
from .families import Family, families
from .inference import bootstrap
from .kept import is_kept
from .numbers import DASH, show
from .pairing import RATIO, per_prompt
from .run import Run

COSTS = (0.8, 0.75, 0.7)
"""Of a denoising step, as shares of the base's."""
SORTED_BY = (1, COSTS[1])
"""The column and the cost by which the board is sorted."""
ALIKE = ("model", "prompts", "seeds", "steps", "guidance", "merging", "scheduler", "size", "dtype", "primary")
"""What runs must have in common, by keys of a study, or they measure different things."""
Interval = tuple[float, float, float]
NOTHING: Interval = (math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Entry:
    """A curve of the board.

    Args:
        strategy: its name.
        setting: what its cells have in common besides, such as log sizes.
        at: the primary metric at each of ``COSTS``, with its 95% interval over prompts; NaN where the curve does not reach.
        psnr: the same for PSNR, without intervals.
        cost: of its cheapest and of its dearest cell.
        n: images a cell.
    """

    strategy: str
    setting: str
    at: tuple[Interval, ...]
    psnr: tuple[float, ...]
    cost: tuple[float, float]
    n: int


def board(folder: Path) -> list[Entry]:
    """The curves of every kept run in a folder, the best first; those that do not cost so little or so much come last.

    Raises:
        ValueError: no kept run, one without costs or a primary metric, or one that measured something else than the others.
    """
    runs = [Run.read(each) for each in sorted(folder.iterdir()) if is_kept(each)] if folder.is_dir() else []
    if not runs:
        raise ValueError(f"expected a folder of kept runs, one a strategy, got none in {folder}")
    for run in runs[1:]:
        if (other := next((key for key in ALIKE if run.study.get(key) != runs[0].study.get(key)), None)) is not None:
            first = f"{runs[0].study.get(other)!r:.60}"
            raise ValueError(f"{run.folder}: expected the {other} of {runs[0].name}, {first}, got another")
    entries = [entry for run in runs for entry in _entries(run)]
    sign = 1 if runs[0].primary is None or runs[0].primary.better == "lower" else -1
    first = SORTED_BY[0]
    return sorted(entries, key=lambda entry: [(math.isnan(v), sign * v) for v, _, _ in entry.at[first:] + entry.at[:first]])


def _entries(run: Run) -> list[Entry]:
    if run.primary is None or not run.shares:
        raise ValueError(f"{run.folder}: expected a run with a primary metric and costs, got one without")
    name, by = run.study["strategy"]["name"], metrics()[run.primary.metric].by
    beside = {family.name: family for family in families(run.cells, run.shares, "psnr")}
    found = []
    for curve in families(run.cells, run.shares, run.primary.metric):
        at = tuple(_read(curve, cost, by) for cost in COSTS)
        psnr = tuple(_read(beside[curve.name], cost, "")[0] for cost in COSTS)
        setting = curve.name.removeprefix(name).lstrip(", ")
        found.append(Entry(name, setting, at, psnr, curve.ends, len(curve.points[0].values)))
    return found


def _read(curve: Family, cost: float, by: str) -> Interval:
    """The mean over prompts at a cost, and its interval; a distance that is compared by ratio has its geometric mean."""
    low, high = curve.ends
    if not low <= cost <= high:
        return NOTHING
    found = bootstrap(list(per_prompt(curve.at(cost)[1]).values()))
    return (math.exp(found[0]), math.exp(found[1]), math.exp(found[2])) if by == RATIO else found


def table(entries: Sequence[Entry]) -> str:
    """A Markdown table, a line for every curve."""
    head = ["strategy", "setting", *(f"at {cost:g} of the base's cost" for cost in COSTS), "PSNR dB there", "cost", "n"]
    lines = [head, ["---", "---", *["---:"] * (len(COSTS) + 3)]]
    for entry in entries:
        values = [DASH if math.isnan(v) else f"{show(v, 4)} [{show(a, 4)}, {show(b, 4)}]" for v, a, b in entry.at]
        psnr = ", ".join(show(value, 1) for value in entry.psnr)
        cost = "{:.2f} to {:.2f}".format(*entry.cost)
        lines.append([f"`{entry.strategy}`", entry.setting, *values, psnr, cost, str(entry.n)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
