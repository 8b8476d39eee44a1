"""From a study to its cells: the sweep expanded, every cell checked before anything heavy is loaded."""

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from mergekit_diff import MergeStrategy, make
from mergekit_diff.registry import one_of

from .config import Study
from .loading import build, flatten, put
from .rehearsal import merging_options, rehearse

PICTURE = ("steps", "guidance", "scheduler", "size")
SWEPT = ("strategy", "merging", *PICTURE)
DRAWS = 10_000


@dataclass(frozen=True)
class Cell:
    """One way to make the pictures of a study.

    Args:
        name: what the tables call it.
        study: the study with the swept values put in.
        strategy: None for a base, which merges nothing.
        merging: the options of ``merging``, the strategy's own defaults filled in.
        is_control: the others are compared with it, besides the base.
        values: all swept values, under dotted keys.
        against: the name of the control that this cell is compared with: the same swept values but for the control's own.
    """

    name: str
    study: Study
    strategy: MergeStrategy | None = None
    merging: dict[str, Any] | None = None
    is_control: bool = False
    values: dict[str, Any] = field(default_factory=dict)
    against: str | None = None

    def picture_settings(self) -> dict[str, Any]:
        """What decides the picture apart from merging, prompt and seed."""
        return {key: getattr(self.study, key) for key in (*PICTURE, "dtype", "device")}

    def base(self) -> "Cell":
        """The same without merging."""
        swept = {key: value for key, value in self.values.items() if key in PICTURE}
        return Cell("base" + (f" ({_label(swept)})" if swept else ""), self.study, values=swept)


def cells(study: Study) -> list[Cell]:
    """Every cell of a study.

    Raises:
        ValueError: a key that cannot be swept, a value out of range, or two cells that are the same thing.
    """
    specs = _specs(study)
    control = _named(flatten_values(study.control))
    made: dict[str, Cell] = {}
    for values in _draws(study, specs):
        cell = _cell(study, values, specs, control)
        same = json.dumps([repr(cell.strategy), cell.merging, cell.picture_settings()], sort_keys=True, default=str)
        if same in made and study.sweep_method == "grid":
            raise ValueError(f"two cells are the same thing: {made[same].name!r} and {cell.name!r}")
        made.setdefault(same, cell)
        if study.sweep_method == "random" and len(made) == (study.sweep_count or 1):
            break
    if study.sweep_method == "random" and len(made) < (study.sweep_count or 1):
        raise ValueError(f"sweep_count is {study.sweep_count}, but {DRAWS:,} draws gave {len(made)} different cells")
    _check_distinct(list(made.values()))
    if control and not any(cell.is_control for cell in made.values()):
        raise ValueError(f"control: no cell has {_label(control)}; cells: {'; '.join(cell.name for cell in made.values())}")
    found = [replace(cell, against=_control_of(cell, list(made.values()), control)) for cell in made.values()]
    alone = [cell.name for cell in found if control and not cell.is_control and cell.against is None]
    if alone:
        raise ValueError(f"control: {alone[0]!r} has no counterpart with {_label(control)} and all else equal")
    return found


def flatten_values(values: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401
    """Plain values under dotted names, of a control or a cell; a mapping with a ``name`` is one value."""
    if not isinstance(values, dict):
        raise ValueError(f"control must be a mapping of keys to values, not {values!r}")
    flat: dict[str, Any] = {}
    for key, value in values.items():
        opened = isinstance(value, dict) and "name" not in value
        flat |= flatten_values(value, f"{prefix}{key}.") if opened else {f"{prefix}{key}": value}
    return flat


def _cell(study: Study, values: dict[str, Any], specs: dict[str, Any], control: dict[str, Any]) -> Cell:
    raw = study.record() | {"sweep": {}, "control": {}}
    for key, value in sorted(values.items(), key=lambda item: item[0].removesuffix(".name").count(".")):
        raw = put(raw, key, value)  # a part before its settings, which a new part would drop
    changed = build(raw)
    strategy = make("strategy", changed.strategy)
    options = merging_options(strategy, changed.merging)
    rehearse(strategy, options["roles"])
    values = flatten_values(_named(values))
    is_control = bool(control) and all(key in values and values[key] == value for key, value in control.items())
    name = ", ".join(_value_label(key, value, specs) for key, value in values.items()) or strategy.name
    return Cell(name, changed, strategy, options, is_control, values)


def _control_of(cell: Cell, made: list[Cell], control: dict[str, Any]) -> str | None:
    wanted = cell.values | control
    return next((other.name for other in made if control and not cell.is_control and other.values == wanted), None)


def _check_distinct(made: list[Cell]) -> None:
    """Names are what tables and comparisons go by."""
    names = [cell.name for cell in made] + list({cell.base().name for cell in made})
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two cells are called {twice!r}: write their settings out, or sweep them under a key of their own")


def _named(values: dict[str, Any]) -> dict[str, Any]:
    """A strategy that is given by its name alone, as the mapping that it means."""
    return {key: {"name": value} if key == "strategy" and isinstance(value, str) else value for key, value in values.items()}


def _specs(study: Study) -> dict[str, Any]:
    if not isinstance(study.sweep, dict):
        raise ValueError(f"sweep must be a mapping of keys to parameter specs, not {study.sweep!r}")
    specs = flatten(study.sweep)
    for key, spec in specs.items():
        one_of(key.split(".")[0], SWEPT, "key to sweep")
        _check_spec(key, spec, study.sweep_method)
    if study.sweep_method == "random" and study.sweep_count is None:
        raise ValueError("sweep_method=random needs sweep_count, the number of cells")
    return specs


def _check_spec(key: str, spec: Any, method: str) -> None:  # noqa: ANN401
    possible = "{values: [...]} or {value: x}" + (" or {min: a, max: b}" if method == "random" else "")
    given = set(spec) if isinstance(spec, dict) else set()
    listed = given == {"values"} and isinstance(spec["values"], list) and bool(spec["values"])
    between = method == "random" and given == {"min", "max"} and all(isinstance(bound, int | float) for bound in spec.values())
    if not (listed or given == {"value"} or between):
        raise ValueError(f"sweep: {key} must be {possible}, not {spec!r}")


def _draws(study: Study, specs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if study.sweep_method == "grid":
        lists = [spec["values"] if "values" in spec else [spec["value"]] for spec in specs.values()]
        yield from (dict(zip(specs, values, strict=True)) for values in itertools.product(*lists))
        return
    draw = random.Random(0)
    for _ in range(DRAWS):
        yield {key: _draw(spec, draw) for key, spec in specs.items()}


def _draw(spec: dict[str, Any], draw: random.Random) -> Any:  # noqa: ANN401
    if "min" not in spec:
        return draw.choice(spec["values"]) if "values" in spec else spec["value"]
    if isinstance(spec["min"], int) and isinstance(spec["max"], int):
        return draw.randint(spec["min"], spec["max"])
    return round(draw.uniform(spec["min"], spec["max"]), 6)


def _value_label(key: str, value: Any, specs: dict[str, Any]) -> str:  # noqa: ANN401
    if isinstance(value, dict) and "name" not in value:
        return _label(value)
    if not isinstance(value, dict) or key not in specs:
        return str(value) if key == "strategy" or key == "strategy.name" else f"{key.split('.')[-1]}={_short(value)}"
    listed = specs[key].get("values", [])
    alone = sum((other.get("name") if isinstance(other, dict) else other) == value["name"] for other in listed) < 2
    rest = {name: setting for name, setting in value.items() if name != "name"}
    return value["name"] if alone or not rest else f"{value['name']}({_label(rest)})"


def _label(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={_short(value)}" for key, value in values.items())


def _short(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, dict) and "name" in value:
        rest = {key: setting for key, setting in value.items() if key != "name"}
        return f"{value['name']}({_label(rest)})" if rest else str(value["name"])
    return str(value)
