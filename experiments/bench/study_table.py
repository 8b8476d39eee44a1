"""The speed table of a study: its strategies on one block of Stable Diffusion 1.5's size, with a new plan at every call."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from .timing import Seconds
from .variants import BASE


def block_table(times: Mapping[str, Sequence[Seconds]]) -> list[dict[str, Any]]:
    """A row per variant, medians in milliseconds: whole block, attention layer, plan, merge + unmerge, ratio to the base.

    Args:
        times: those of the base among them, as from :func:`.overhead.block_times`.

    >>> seconds = {"wall": 0.4, "plan": 0.0, "merge": 0.0, "attention": 0.3, "unmerge": 0.0}
    >>> block_table({"base": [seconds]})
    [{'variant': 'base', 'block': 400.0, 'layer': 300.0, 'plan': 0.0, 'merge': 0.0, 'ratio': 1.0}]
    """
    medians = {name: {part: median(one[part] for one in rounds) for part in rounds[0]} for name, rounds in times.items()}
    lines = []
    for name, seconds in medians.items():
        merge = seconds["merge"] + seconds["unmerge"]
        layer = seconds["plan"] + merge + seconds["attention"]
        parts = {"block": seconds["wall"], "layer": layer, "plan": seconds["plan"], "merge": merge}
        ratio = round(seconds["wall"] / medians[BASE]["wall"], 4)
        lines.append({"variant": name, **{key: round(1000 * value, 3) for key, value in parts.items()}, "ratio": ratio})
    return lines
