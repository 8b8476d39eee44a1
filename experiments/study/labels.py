"""Names of cells, from the values that are swept."""

from typing import Any


def value_label(key: str, value: Any, specs: dict[str, Any]) -> str:  # noqa: ANN401
    """What a swept value adds to the name of its cell; a strategy's settings only where another value has the same name.

    Args:
        key: dotted.
        value: of the cell.
        specs: of the whole sweep, by key.
    """
    if isinstance(value, dict) and "name" not in value:
        return label(value)
    if not isinstance(value, dict) or key not in specs:
        return str(value) if key == "strategy" or key == "strategy.name" else f"{key.split('.')[-1]}={_short(value)}"
    listed = specs[key].get("values", [])
    alone = sum((other.get("name") if isinstance(other, dict) else other) == value["name"] for other in listed) < 2
    rest = {name: setting for name, setting in value.items() if name != "name"}
    return value["name"] if alone or not rest else f"{value['name']}({label(rest)})"


def label(values: dict[str, Any]) -> str:
    """Several values, as "key=value, key=value"."""
    return ", ".join(f"{key}={_short(value)}" for key, value in values.items())


def _short(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, dict) and "name" in value:
        rest = {key: setting for key, setting in value.items() if key != "name"}
        return f"{value['name']}({label(rest)})" if rest else str(value["name"])
    return str(value)
