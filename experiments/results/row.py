"""The row of an output: what the run folder keeps of an image, a video or whatever a task makes, one line of JSON each."""

import json
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergekit_diff.refreshing import checked, planned
from mergekit_diff.registry import one_of

from ..metrics import as_json, metrics
from ..metrics.projection import decode
from ..reading import fits, parse_json

REPEAT = "repeat"


@dataclass(frozen=True)
class Row:
    """One output of a run, such as an image. This is the contract between what makes outputs and everything that reads them.

    On disk a row is one JSON object. Its keys are the names below, but the entries of ``metrics`` are keys of the row itself, an
    infinite number is written as text ("inf"), and a base leaves out what only merging gives.

    Args:
        job: 16 hex digits, a hash of all that decides the image.
        base: job of the image without merging that this one is compared with; its own for a base.
        cell: name of the cell of the study.
        role: "base", "control", "cell" or "repeat": the control, or a random cell, with another merging seed.
        against: name of the cell that this one is compared with: its control, the base where quality is compared with it, or
            the cell that it repeats; None for a base, a control, or a study without a control.
        values: the swept values of the cell, under dotted keys such as "strategy.ratio".
        prompt: text that the image was generated from.
        seed: number of the image among those of its prompt, from 0; the two decide its noise.
        strategy: repr of the strategy, "base" for a base.
        merging: the options of ``merging``, every default filled in, with the study's seed, which is mixed with prompt and seed;
            None for a base.
        image: path of the file of the output, relative to the run folder.
        made_by: by metric, the network that computed the number.
        seconds: time of the whole pipeline call.
        step_seconds: time of every denoising step.
        tokens_before: tokens that enter the merged layers in one call of the denoiser, summed over the layers.
        tokens_after: tokens that are left of them, mean over the calls.
        asked: merge ratio that the strategy asked for, 0 to 1; None if it has none.
        granted: merge ratio that the plans gave, 0 to 1.
        notes: what the merge report said, such as a window that was cut.
        kept: share of the tokens that was kept at every step, 0 to 1.
        plans: number of steps in which a site made a plan for this image, mean over the sites; where two denoisers take turns,
            as if each ran in all steps. None if it was not recorded.
        stale: share of tokens, at every step, whose group a fresh plan would change; None where no plan was in use.
        drift: distance of the latents from the base's after every step, relative to their norm.
        layers: by site, how far merging changes what the layer adds to its input, at every step; None where nothing was merged.
        computed: share of the blocks that ran where a step cache skips some, mean over the steps; None without one.
        features: of the image, or of every frame, by the network of KID, text score and feature distance, projected to 256
            numbers, see :mod:`mergekit_diff.experiments.metrics.projection`; empty if no metric asks for them.
        metrics: numbers by the name of their metric; a pairwise metric has none for a base.
    """

    job: str
    base: str
    cell: str
    role: str
    against: str | None
    values: Mapping[str, Any]
    prompt: str
    seed: int
    strategy: str
    merging: Mapping[str, Any] | None
    image: str
    made_by: Mapping[str, str]
    seconds: float
    step_seconds: list[float]
    tokens_before: int | None = None
    tokens_after: float | None = None
    asked: float | None = None
    granted: float | None = None
    notes: list[str] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    plans: float | None = None
    stale: list[float | None] = field(default_factory=list)
    drift: list[float] = field(default_factory=list)
    layers: Mapping[str, list[float | None]] = field(default_factory=dict)
    computed: float | None = None
    features: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, line: bytes, where: str) -> "Row":
        """A row from its line.

        Args:
            line: JSON.
            where: file and line number, for the message.

        Raises:
            ValueError: it is not JSON, lacks a key, or has one that is neither a field nor a metric.
        """
        try:
            return cls.from_json(_object(line))
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"{where}: expected a row, got {error}") from None

    @classmethod
    def from_json(cls, keys: Mapping[str, Any]) -> "Row":
        """A row from the JSON object of its line.

        Raises:
            ValueError: a key is missing, has a value of another type, or is neither a field nor a metric.
        """
        missing = [name for name in REQUIRED if name not in keys]
        if missing:
            raise ValueError(f"an object without {', '.join(missing)}")
        for name, value in keys.items():
            if name in FIELDS and not CHECKS[name](value):
                raise ValueError(f"{name} of another type: {str(value)[:50]!r}")
        if keys["merging"] is not None and (fault := _unlike_refresh(keys["merging"].get("refresh"))):
            raise ValueError(f"merging without a refresh: {fault}")
        numbers = {key: float(value) for key, value in keys.items() if key not in FIELDS and one_of(key, KNOWN, "key")}
        return cls(**{key: value for key, value in keys.items() if key in FIELDS}, metrics=numbers)

    def to_json(self) -> dict[str, Any]:
        """The JSON object of its line."""
        keys = {name: getattr(self, name) for name in FIRST}
        if self.tokens_before is not None:
            keys |= {name: getattr(self, name) for name in MERGED}
        keys |= {name: getattr(self, name) for name in SOMETIMES if getattr(self, name) not in (None, [], {})}
        keys |= {name: as_json(value) for name, value in self.metrics.items()}
        keys |= {"features": self.features} if self.features else {}
        return keys | {name: getattr(self, name) for name in LAST}

    def line(self) -> bytes:
        """Its line in the run folder, with the newline."""
        return json.dumps(self.to_json(), ensure_ascii=False, allow_nan=False).encode() + b"\n"

    def feature_vectors(self) -> NDArray[np.float64]:
        """The (F, 256) projected features; F is 1 for an image.

        Raises:
            ValueError: there are none.
        """
        return decode(self.features)

    def plan_every(self) -> float | None:
        """Steps that a plan served, None for a base: ``refresh``, unless a schedule made the strategy plan more often."""
        if not self.merging or not self.kept:
            return None
        steps, refresh = len(self.kept), checked(self.merging["refresh"])
        asked = planned(refresh, steps)
        if self.plans is None or not self.plans or asked == self.plans:
            return min(refresh, steps) if isinstance(refresh, int) else steps / asked
        return steps / self.plans


CHECKS = {name: fits(hint) for name, hint in typing.get_type_hints(Row).items()}
FIELDS = tuple(one.name for one in fields(Row) if one.name != "metrics")
REQUIRED = tuple(one.name for one in fields(Row) if one.default is MISSING and one.default_factory is MISSING)
LAST = ("made_by", "seconds", "step_seconds")
FIRST = tuple(name for name in REQUIRED if name not in LAST)
SOMETIMES = ("plans", "stale", "drift", "layers", "computed")
MERGED = ("tokens_before", "tokens_after", "asked", "granted", "notes", "kept")
KNOWN = (*FIELDS, *metrics())
"""Keys that a line may have."""


def _object(line: bytes) -> dict[str, Any]:
    try:
        keys = parse_json(line, strict=True)
    except ValueError:
        raise ValueError("text that is not JSON") from None
    if not isinstance(keys, dict):
        raise ValueError(f"a JSON {type(keys).__name__}")
    return keys


def _unlike_refresh(value: Any) -> str:  # noqa: ANN401
    """What is wrong with the option, empty if nothing is."""
    try:
        checked(value)
    except ValueError as error:
        return str(error)
    return ""


def by_cell(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by the name of their cell, in the order of first appearance."""
    cells: dict[str, list[Row]] = {}
    for row in rows:
        cells.setdefault(row.cell, []).append(row)
    return cells


def newest(rows: Iterable[Row]) -> list[Row]:
    """The last row of every cell, prompt and seed, in the order of their first."""
    return list({(row.cell, row.prompt, row.seed): row for row in rows}.values())
