"""Expands the sweep of a study into its cells, and checks every cell before anything heavy is loaded."""

import json
from collections.abc import Mapping
from typing import Any

from mergekit_diff import make

from ..models import task_of
from .cell import Cell
from .config import BASE, Study
from .labels import value_label
from .loading import build, put
from .pairing import paired, repeats
from .rehearsal import GRIDS, OTHERS, merging_options, toy_grid
from .specs import DRAWS, draws, sweep_specs


def cells(study: Study) -> list[Cell]:
    """Every cell of a study; the last one may be a repeat, see :func:`.pairing.repeats`.

    Raises:
        ValueError: a key that cannot be swept, a value out of range, or two cells that are the same.
    """
    specs = sweep_specs(study)
    control = {} if study.control == BASE else _named(flatten_values(study.control))
    pairs = paired(_expand(study, specs, control), study, control)
    every = [*pairs, *(repeats(pairs) if study.control and study.repeat else [])]
    _check_distinct(every)
    return every


def flatten_values(values: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401
    """The values of a control or a cell under dotted names; a mapping with a ``name`` is one value."""
    if not isinstance(values, dict):
        raise ValueError(f"control: expected a mapping of keys to values or {BASE!r}, got {values!r}")
    flat: dict[str, Any] = {}
    for key, value in values.items():
        opened = isinstance(value, dict) and "name" not in value
        flat |= flatten_values(value, f"{prefix}{key}.") if opened else {f"{prefix}{key}": value}
    return flat


def _expand(study: Study, specs: dict[str, Any], control: dict[str, Any]) -> list[Cell]:
    """The cells of a sweep: all of a grid, or different ones drawn at random."""
    by_meaning: dict[str, Cell] = {}
    count = (study.sweep_count or 1) if study.sweep_method == "random" else None
    for values in draws(study, specs):
        cell = _cell(study, values, specs, control)
        meaning = json.dumps([repr(cell.strategy), cell.merging, cell.image_settings()], sort_keys=True, default=str)
        if meaning in by_meaning and count is None:
            raise ValueError(
                f"sweep: expected different cells, got {by_meaning[meaning].name!r} and {cell.name!r}, which are the same"
            )
        by_meaning.setdefault(meaning, cell)
        if len(by_meaning) == count:
            break
    if count is not None and len(by_meaning) < count:
        raise ValueError(
            f"sweep_count: expected {count} different cells, got {len(by_meaning)} different cells from {DRAWS:,} draws"
        )
    return list(by_meaning.values())


def _cell(study: Study, values: dict[str, Any], specs: dict[str, Any], control: dict[str, Any]) -> Cell:
    raw = study.record() | {"sweep": {}, "control": {}}
    for key, value in sorted(values.items(), key=lambda item: item[0].removesuffix(".name").count(".")):
        raw = put(raw, key, value)  # a part before its settings: putting another part drops them
    changed = build(raw)
    _check_kept(study.strategy, changed.strategy)
    strategy = make("strategy", changed.strategy)
    options = merging_options(strategy, changed.merging)
    toy_grid(strategy, options["roles"], GRIDS.get(task_of(study.model).name, OTHERS))
    values = flatten_values(_named(values))
    is_control = bool(control) and all(key in values and values[key] == value for key, value in control.items())
    name = ", ".join(value_label(key, value, specs) for key, value in values.items()) or strategy.name
    return Cell(name, changed, strategy, options, is_control, values=values)


def _check_kept(given: Mapping[str, Any], swept: Mapping[str, Any]) -> None:
    """Refuse a sweep over names that drops settings which the study gives beside them."""
    lost = next((key for key in given if key not in swept), None)
    if lost is not None:
        raise ValueError(
            f"strategy.{lost} would be dropped: the sweep names another strategy, {swept['name']!r}; give it in the sweep, as "
            f"strategy.{lost}: {{value: {given[lost]!r}}}"
        )


def _check_distinct(expanded: list[Cell]) -> None:
    """Refuse equal names: tables and comparisons identify cells by them."""
    names = [cell.name for cell in expanded] + list({cell.base().name for cell in expanded})
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ValueError(
            f"sweep: expected different names, got two cells called {repeated!r}; sweep more of their settings by key"
        )


def _named(values: dict[str, Any]) -> dict[str, Any]:
    """Strategies given by name alone, as the mappings that they mean."""
    return {key: {"name": value} if key == "strategy" and isinstance(value, str) else value for key, value in values.items()}
