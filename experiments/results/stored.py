"""What a run stored beside its rows, with the shape that each file has: checked here, where it is read.

Whoever computes with the data relies on its shape, so that an error there is a bug and not a file that somebody changed.
"""

import csv
import math
from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from mergekit_diff.registry import one_of

from ..metrics import metrics
from ..reading import inside, misfit, read_json
from .summary import read_csv

STEPS = 100_000
"""Denoising steps of an image, at most."""
TIMES = ("block", "layer", "plan", "merge", "ratio")


class StoredPrimary(TypedDict):
    """The metric that decides."""

    metric: str
    better: NotRequired[Literal["lower", "higher"]]
    margin: NotRequired[float | None]


class StoredStudy(TypedDict):
    """What a report reads of a study."""

    question: str
    hypothesis: str
    model: str
    prompts: list[str]
    seeds: int
    steps: int
    guidance: float
    strategy: Mapping[str, Any]
    sweep: Mapping[str, Any]
    metrics: list[str]
    primary: NotRequired[StoredPrimary | None]
    reference: NotRequired[str | None]


class StoredTraits(TypedDict):
    """What a report reads of the traits of a cell."""

    differing: list[str]


class StoredConfig(TypedDict):
    """config.yaml."""

    study: StoredStudy
    command: str
    git: str | None
    versions: Mapping[str, Any]
    traits: NotRequired[Mapping[str, StoredTraits]]


class Spread(TypedDict):
    """A number with the ends of its interval."""

    median: float
    low: float
    high: float


class Cost(TypedDict, total=False):
    """Of a cell in costs.json."""

    flops: float | None
    share: float | None
    like: str
    plan_ms: float | None
    merge_ms: float | None
    unmerge_ms: float | None
    attention_ms: float | None
    peak_bytes: float | None
    step_seconds: Spread | None


class SetValue(TypedDict):
    """Of a cell and a metric in sets.json; NaN where a set was too small."""

    value: Real
    low: Real
    high: Real
    floor: Real
    n: int
    reference_n: int
    made_by: str


class StoredMap(TypedDict):
    """A plan of a site."""

    site: str
    role: str
    stage: str | None
    grid: list[int]
    assign: list[int]
    rep: list[int]


class StoredSite(TypedDict):
    """A line of the report of a session."""

    site: str
    role: str
    stage: str | None
    level: int
    grid: list[int]
    tokens: int
    kept: float
    asked: float | None
    granted: float
    plans: int
    note: str
    by_step: NotRequired[Mapping[str, list[int]]]


class Maps(TypedDict):
    """maps/JOB.json."""

    image: str
    prompt: str
    sites: list[StoredSite]
    maps: list[StoredMap]


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """Compare config.yaml with what a run writes.

    Raises:
        ValueError: something in it is missing, of another type, or a metric that nobody knows; names the place.
    """
    _expect(config, StoredConfig, path)
    primary = config["study"].get("primary")
    _check_metrics([*config["study"]["metrics"], *([primary["metric"]] if primary else [])], path)


def costs(folder: Path) -> dict[str, Any]:
    """Costs by cell; empty without a file.

    Raises:
        ValueError: something in it is of another type.
    """
    return _read(folder, "costs.json", Mapping[str, Cost])


def sets(folder: Path) -> dict[str, Any]:
    """Values of whole sets of images by cell, then by metric; empty without a file.

    Raises:
        ValueError: something in it is missing or of another type, or a metric is unknown.
    """
    values = _read(folder, "sets.json", Mapping[str, Mapping[str, SetValue]])
    _check_metrics((name for cell in values.values() for name in cell), folder / "sets.json")
    return values


def maps(folder: Path, name: str) -> dict[str, Any]:
    """What was merged where in an image.

    Raises:
        ValueError: something in it is missing or of another type.
    """
    path, found = folder / name, _read(folder, name, Maps)
    for site in found["sites"]:
        for step, counts in site.get("by_step", {}).items():
            if not (step.isdecimal() and int(step) < STEPS and len(counts) == 2):
                raise ValueError(f"expected tokens and tokens kept by step in {path}, got {step[:20]!r}: {str(counts)[:50]}")
    for one in found["maps"]:
        grid, count = one["grid"], len(one["assign"])
        if not (len(grid) in (2, 3) and min(grid) > 0 and math.prod(grid) == count and one["rep"]):
            raise ValueError(f"expected the maps of grids in {path}, got {count} tokens for a grid {str(grid)[:50]}")
    return found


def speed(folder: Path) -> list[dict[str, str]]:
    """Times of one transformer block, a line for every variant; empty without a file.

    Raises:
        ValueError: it is no table of such times.
    """
    path = inside(folder, "speed.csv")
    try:
        lines = read_csv(path) if path.exists() else []
        for line in lines:
            if not isinstance(line.get("variant"), str) or not all(isinstance(line.get(name), str) for name in TIMES):
                raise ValueError(f"a line without {', '.join(('variant', *TIMES))}")
            _ = [float(line[name] or "nan") for name in TIMES]
    except (ValueError, csv.Error) as error:
        raise ValueError(f"expected a table of times in {path}, got {' '.join(str(error).split())[:200]}") from None
    return lines


def _read(folder: Path, name: str, hint: Any) -> dict[str, Any]:  # noqa: ANN401
    path = inside(folder, name)
    found = read_json(path) if path.exists() else {}
    _expect(found, hint, path)
    return found


def _expect(value: object, hint: Any, path: Path) -> None:  # noqa: ANN401
    if (wrong := misfit(value, hint)) is not None:
        raise ValueError(f"expected what a run writes in {path}, got {wrong}")


def _check_metrics(names: Iterable[str], path: Path) -> None:
    for name in names:
        try:
            one_of(name, metrics(), "metric")
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
