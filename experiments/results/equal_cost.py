"""Strategies at equal cost: a strategy's curve over its ratios against the control's curve.

At an equal ratio strategies in other roles or on other levels cost more or less. Here they are compared where they cost the same,
see :mod:`.families` for the curves.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..metrics import metrics
from ..study.config import Primary
from .comparison import NOT_COMPARABLE, Comparison, Scale, described, judged
from .families import Family, families
from .inference import holm
from .numbers import DASH, show
from .pairing import RATIO, per_prompt
from .row import Row
from .tables import show_p

TITLE = "At equal cost: curves over the ratio, against the control's curve"


@dataclass(frozen=True)
class EqualCost(Comparison):
    """A family of cells against the control's family at one cost.

    ``cell`` and ``against`` are the names of the families: what their cells have in common. ``n`` counts the images of the same
    prompt and seed that all cells have which are interpolated between.

    Args:
        cost: of a denoising step, as a share of the base's; NaN where the families have no cost in common.
        cells: the cells between which the family is interpolated; one if that cell costs just this.
        controls: the same of the control's family.
    """

    cost: float = math.nan
    cells: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()


def at_equal_cost(cells: Mapping[str, Sequence[Row]], shares: Mapping[str, float], primary: Primary) -> list[EqualCost]:
    """Every family against the family of its control by the primary metric, Holm-corrected over all comparisons.

    They are compared at those costs of the control's points that lie in the range of both; where none does, at those of the
    family's points. A family that has no cost in common with the control's has one entry that says so. Without a control, or by
    a metric of sets, there is nothing to compare.

    Args:
        cells: rows by cell.
        shares: by cell, the cost of a denoising step as a share of the base's; cells without one are left out.
        primary: the metric that decides.
    """
    scale = Scale(primary.metric, primary.better, primary.margin)
    if scale.of_sets:
        return []
    pairs = _pairs(cells, families(cells, shares, scale.metric))
    found = [one for family, control in pairs for one in _compare(family, control, scale)]
    counted = [one for one in found if not one.verdict]
    corrected = iter(holm([one.p for one in counted]))
    return [one if one.verdict else judged(one, next(corrected), scale, len(counted)) for one in found]


def table(compared: Sequence[EqualCost]) -> list[list[str]]:
    """Heading and a row for every comparison, of which there is at least one."""
    label = f"{metrics()[compared[0].metric].label}: {compared[0].by}"
    head = ["curve", "verdict", "cost / base", label, "95% interval", "p (Holm)", "prompts", "n", "cells", "against", "its cells"]
    return [head, *[_line(one) for one in compared]]


def _line(one: EqualCost) -> list[str]:
    digits, sign = (2, False) if one.by == RATIO else (4, True)
    low, high = show(one.low, digits, sign), show(one.high, digits, sign)
    interval = DASH if math.isnan(one.low) else f"[{low}, {high}]"
    numbers = [show(one.effect, digits, sign), interval, show_p(one), str(one.prompts), str(one.n)]
    cells, controls = (" and ".join(names) or DASH for names in (one.cells, one.controls))
    return [one.cell, one.verdict, show(one.cost, 3), *numbers, cells, one.against, controls]


def _pairs(cells: Mapping[str, Sequence[Row]], known: Sequence[Family]) -> list[tuple[Family, Family]]:
    """Families, each with that of its control; the control's own has none."""
    home = {point.cell: family for family in known for point in family.points}
    pairs: dict[tuple[str, str], tuple[Family, Family]] = {}
    for cell, family in home.items():
        control = home.get(cells[cell][0].against or "")
        if control is not None and control is not family:
            pairs[family.name, control.name] = family, control
    return list(pairs.values())


def _compare(family: Family, control: Family, scale: Scale) -> list[EqualCost]:
    names = {"cell": family.name, "against": control.name, "metric": scale.metric, "by": scale.by}
    none = dict.fromkeys(("effect", "low", "high", "p", "p_holm", "visible"), math.nan)
    nothing = EqualCost(**names, **none, n=0, prompts=0, verdict="")
    costs = control.costs_inside(family) or family.costs_inside(control)
    if not costs:
        own, other = ("{:.3f} to {:.3f}".format(*one.ends) for one in (family, control))
        return [replace(nothing, verdict=f"{NOT_COMPARABLE}: costs of {own} here and of {other} for the control")]
    return [_at(replace(nothing, cost=cost), family, control) for cost in costs]


def _at(empty: EqualCost, family: Family, control: Family) -> EqualCost:
    (cells, own), (controls, other) = family.at(empty.cost), control.at(empty.cost)
    differences = {key: value - other[key] for key, value in own.items() if key in other}
    paired = replace(empty, cells=cells, controls=controls, n=len(differences))
    return described(paired, list(per_prompt(differences).values()))
