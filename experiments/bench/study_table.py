"""The speed table of a study: its strategies on one block of Stable Diffusion 1.5's size, with a new plan at every call."""

from collections.abc import Mapping
from statistics import median
from typing import Any

from mergekit_diff import MergeStrategy

from .config import Bench


def block_table(strategies: Mapping[str, tuple[MergeStrategy, str]], repetitions: int = 5) -> list[dict[str, Any]]:
    """A row per variant, medians in milliseconds: whole block, attention layer, plan, merge + unmerge, ratio to the base.

    Args:
        strategies: name to strategy and role.
        repetitions: rounds, after one that is not counted.
    """
    from .subject import subject
    from .timing import count, take_turns
    from .variants import all_roles, variants

    bench = Bench(refresh=[1])
    entries = {name: (strategy, (role,)) for name, (strategy, role) in strategies.items()}
    block = subject(bench)
    every = variants(bench, entries, block.sample.shape[2:])
    for variant in every:
        count(block, variant)  # to have run them once
    times = take_turns(block, every, repetitions, all_roles(bench, entries))
    return _lines({name: {key: median(seconds[key] for seconds in moments["fresh"]) for key in moments["fresh"][0]}
                   for name, moments in times.items()})  # fmt: skip


def _lines(medians: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    base = medians["base"]["wall"]
    lines = []
    for name, seconds in medians.items():
        merge = seconds["merge"] + seconds["unmerge"]
        layer = seconds["plan"] + merge + seconds["attention"]
        parts = {"block": seconds["wall"], "layer": layer, "plan": seconds["plan"], "merge": merge}
        lines.append({"variant": name, **{key: round(1000 * value, 3) for key, value in parts.items()},
                      "ratio": round(seconds["wall"] / base, 4)})  # fmt: skip
    return lines
