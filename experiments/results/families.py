"""Curves of a metric over cost: cells that differ only in their ratio, or in the threshold of their cache, are the points of one.

Between two neighbouring points the metric is interpolated linearly over the cost, for a metric that is compared by ratio its
logarithm; nothing is extrapolated. This is done image by image, so that the pairing by prompt and seed is kept.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..metrics import metrics
from ..study.labels import value_label
from .pairing import values_of
from .row import Row

CACHE = "cache"
Values = Mapping[tuple[str, int], float]
"""A metric, or its logarithm, by prompt and seed."""


@dataclass(frozen=True)
class Point:
    """A cell of a family.

    Args:
        cost: of a denoising step, as a share of the base's.
        cell: its name.
        values: of its images.
    """

    cost: float
    cell: str
    values: Values


@dataclass(frozen=True)
class Family:
    """Cells that differ only in their ratio; where a study sweeps the threshold of a step cache, only in that.

    Args:
        name: what they have in common.
        points: at least one; the cheapest first.
    """

    name: str
    points: tuple[Point, ...]

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest cost."""
        return self.points[0].cost, self.points[-1].cost

    def costs_inside(self, other: "Family") -> list[float]:
        """The different costs of its points that are in the range of another family's."""
        low, high = other.ends
        return list(dict.fromkeys(point.cost for point in self.points if low <= point.cost <= high))

    def at(self, cost: float) -> tuple[tuple[str, ...], Values]:
        """At a cost in its range: the cells next to it, and the values of images that all of these have.

        >>> points = Point(0.5, "a", {("p", 0): 1.0}), Point(0.75, "b", {("p", 0): 3.0, ("q", 0): 3.0})
        >>> Family("f", points).at(0.625)
        (('a', 'b'), {('p', 0): 2.0})
        """
        for point in self.points:
            if point.cost == cost:
                return (point.cell,), point.values
        low, high = next((a, b) for a, b in pairwise(self.points) if a.cost < cost < b.cost)
        weight = (cost - low.cost) / (high.cost - low.cost)
        both = low.values.keys() & high.values.keys()
        between = {key: (1 - weight) * value + weight * high.values[key] for key, value in low.values.items() if key in both}
        return (low.cell, high.cell), between


def families(cells: Mapping[str, Sequence[Row]], shares: Mapping[str, float], metric: str) -> list[Family]:
    """The families of all cells whose cost is known, bases and repetitions left out.

    Args:
        cells: rows by cell.
        shares: by cell, the cost of a denoising step as a share of the base's.
        metric: of single images.
    """
    by = metrics()[metric].by
    common: dict[str, dict[str, Any]] = {}
    points: dict[str, list[Point]] = {}
    for cell, rows in cells.items():
        if rows[0].role in ("control", "cell") and cell in shares:
            values = _in_common(rows[0].values)
            same = json.dumps(values, sort_keys=True)
            common[same] = values
            points.setdefault(same, []).append(Point(shares[cell], cell, values_of(rows, metric, by)))
    groups = [tuple(sorted(group, key=lambda point: point.cost)) for group in points.values()]
    return [Family(name, group) for name, group in zip(_names(list(common.values())), groups, strict=True)]


def _in_common(values: Mapping[str, Any]) -> dict[str, Any]:
    """Swept values without the one that differs within a family.

    A ratio that changes over steps or sites stays: it is another strategy, not a point.
    """
    if CACHE in values:
        return {key: value for key, value in values.items() if key != CACHE}
    rest = {key: value for key, value in values.items() if key != "strategy.ratio" or _changes(value)}
    strategy = rest.get("strategy")
    if isinstance(strategy, Mapping) and not _changes(strategy.get("ratio")):
        rest["strategy"] = {key: value for key, value in strategy.items() if key != "ratio"}
    return rest


def _changes(ratio: Any) -> bool:  # noqa: ANN401
    return isinstance(ratio, Mapping) and ratio.get("name") != "constant"


def _names(common: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each, with a strategy's settings only where another one has the same name."""
    strategies = {json.dumps(values["strategy"], sort_keys=True): values["strategy"] for values in common if "strategy" in values}
    specs = {"strategy": {"values": list(strategies.values())}}
    return [", ".join(value_label(key, value, specs) for key, value in values.items()) for values in common]
