"""What a sweep varies: parameter specs as W&B has them, and the values drawn from them."""

import itertools
import random
from collections.abc import Iterator
from typing import Any

from mergekit_diff.registry import one_of

from .config import Study
from .loading import flatten

IMAGE = ("steps", "guidance", "scheduler", "size", "frames")
"""Keys that also change the base."""
SWEPT = ("strategy", "merging", "cache", *IMAGE)
DRAWS = 10_000
"""How often a random sweep draws at most to find enough different cells."""


def sweep_specs(study: Study) -> dict[str, Any]:
    """The parameter specs of a study's sweep under dotted keys.

    Raises:
        ValueError: a key that cannot be swept, or a spec without values.
    """
    if not isinstance(study.sweep, dict):
        raise ValueError(f"sweep: expected a mapping of keys to parameter specs, got {study.sweep!r}")
    specs = flatten(study.sweep)
    for key, spec in specs.items():
        one_of(key.split(".")[0], SWEPT, "key to sweep")
        _check_spec(key, spec, study.sweep_method)
    if study.sweep_method == "random" and study.sweep_count is None:
        raise ValueError("sweep_count: expected the number of cells for sweep_method=random, got none")
    return specs


def _check_spec(key: str, spec: Any, method: str) -> None:  # noqa: ANN401
    possible = "{values: [...]} or {value: x}" + (" or {min: a, max: b}" if method == "random" else "")
    keys = set(spec) if isinstance(spec, dict) else set()
    listed = keys == {"values"} and isinstance(spec["values"], list) and bool(spec["values"])
    between = method == "random" and keys == {"min", "max"} and all(isinstance(bound, int | float) for bound in spec.values())
    if not (listed or keys == {"value"} or between):
        raise ValueError(f"sweep: {key}: expected {possible}, got {spec!r}")


def draws(study: Study, specs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The values of one cell after another: every combination of a grid, or different random draws, the same every time."""
    if study.sweep_method == "grid":
        lists = [spec["values"] if "values" in spec else [spec["value"]] for spec in specs.values()]
        yield from (dict(zip(specs, values, strict=True)) for values in itertools.product(*lists))
        return
    draw, seen = random.Random(0), set()
    for _ in range(DRAWS):
        values = {key: _draw(spec, draw) for key, spec in specs.items()}
        if repr(values) not in seen:  # building and checking a cell takes far longer than drawing its values
            seen.add(repr(values))
            yield values


def _draw(spec: dict[str, Any], draw: random.Random) -> Any:  # noqa: ANN401
    if "min" not in spec:
        return draw.choice(spec["values"]) if "values" in spec else spec["value"]
    if isinstance(spec["min"], int) and isinstance(spec["max"], int):
        return draw.randint(spec["min"], spec["max"])
    return round(draw.uniform(spec["min"], spec["max"]), 6)
