"""The project's speed goals: what is measured, in which record, and the bar that it should meet."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..results.tables import DASH
from .peers import TOMESD
from .results import paired, series, share_of, share_of_gain
from .startup import COSTS, Small
from .variants import BASE, FLOOR, GATED

Record = Mapping[str, Any]
Value = Callable[[Record], Sequence[float]]
"""Of a record: the median and the bounds of its 95% interval, or one number alone."""
ROUNDS = 15
"""The fewest rounds whose interval is held against a bar; with fewer it is nearly the whole range of what was seen."""


class Unmeasured(LookupError):
    """A record lacks a variant, or its calls with a kept plan."""


@dataclass(frozen=True)
class Bar:
    """A limit for a value.

    Args:
        limit: the limit itself meets it.
        least: whether the value should be at least the limit instead of at most.
    """

    limit: float
    least: bool = False

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.limit:.2f}"

    def met(self, value: Sequence[float], rounds: int) -> str:
        """How a value meets the bar: "by its interval", if all of it does in enough rounds, "by the point alone", or "no".

        >>> Bar(1.0).met([0.9, 0.8, 1.0], rounds=15), Bar(1.0).met([0.9, 0.8, 1.1], rounds=15)
        ('by its interval', 'by the point alone')
        >>> Bar(1.0).met([0.9, 0.8, 1.0], rounds=7), Bar(1.0, least=True).met([0.9], rounds=15)
        ('by the point alone', 'no')
        """
        sign = -1 if self.least else 1
        below = [sign * each <= sign * self.limit for each in value]
        if not below[0]:
            return "no"
        return "by its interval" if len(value) == 3 and all(below) and rounds >= ROUNDS else "by the point alone"


@dataclass(frozen=True)
class Goal:
    """A row of the table.

    Args:
        measure: what is measured.
        record: the file, without its suffix, that it is computed from.
        value: computes it.
        bar: what it should meet; None if it is told for comparison.
    """

    measure: str
    record: str
    value: Value
    bar: Bar | None = None

    def line(self, record: Record) -> list[str]:
        """The row's texts: measure, value, goal, how it is met, rounds and record."""
        rounds, bar = record["bench"]["rounds"], DASH if self.bar is None else str(self.bar)
        try:
            value = self.value(record)
        except Unmeasured:
            return [self.measure, "not measured", bar, DASH, DASH, f"`{self.record}`"]
        met = DASH if self.bar is None else self.bar.met(value, rounds)
        return [self.measure, _text(value), bar, met, str(rounds), f"`{self.record}`"]


def goals() -> list[Goal]:
    """Every row, in the order of the table. Where two strategies are compared, both keep their plans for as many steps."""
    large, medium, small = (f"{side}x{side}, batch {batch}, U-Net step" for side, batch in ((1024, 1), (512, 2), (256, 2)))
    ungated = f"{large}: share of its ungated gain that retom-paper keeps behind gate=auto"
    gain, layer, ours = f"{large}: share of the floor's gain kept", "attention layer", "retom-paper"
    every, kept = "plan every step", "plan every 20 steps"
    return [
        Goal(f"merge + unmerge, 4,096 tokens: {ours} / {TOMESD}", "layer", _of_parts(ours, "merge", "unmerge"), Bar(0.25)),
        Goal(f"plan, 4,096 tokens: {ours} / {TOMESD}", "layer", _of_parts(ours, "plan"), Bar(0.25)),
        Goal(f"plan, 16,384 tokens: {ours} / {TOMESD}", "scaling", _at("plan_ms", ours, 16384), Bar(0.06)),
        Goal(f"extra memory of that plan: {ours} / {TOMESD}", "scaling", _at("peak_bytes", ours, 16384), Bar(0.1)),
        Goal(f"planning time grows as N^: {ours}", "scaling", _exponent(ours), Bar(1.1)),
        Goal(f"the same: {TOMESD}", "scaling", _exponent(TOMESD)),
        Goal("the same on grids of three axes: retom", "scaling-3d", _exponent("retom"), Bar(1.1)),
        Goal("the same on grids of three axes: local-match", "scaling-3d", _exponent("local-match"), Bar(1.1)),
        Goal(f"{layer}, {kept}: {ours} / floor", "layer", _ratio(ours, 20, FLOOR), Bar(1.03)),
        Goal(f"{layer}, {every}: {ours} / floor", "layer", _ratio(ours, 1, FLOOR), Bar(1.08)),
        Goal(f"{layer}, {every}: {ours} / {TOMESD}", "layer", _ratio(ours, 1, TOMESD), Bar(0.78)),
        Goal(f"{layer}, {kept}: {ours} / {TOMESD}", "layer", _ratio(ours, 20, TOMESD), Bar(1.0)),
        Goal(f"{layer}, {every}: {ours} / tomesd", "layer", _ratio(ours, 1, "tomesd")),
        Goal(f"{layer}, {kept}: {ours} / tomesd", "layer", _ratio(ours, 20, "tomesd")),
        Goal(f"{layer}, {every}: tomesd / {TOMESD}", "layer", _ratio("tomesd", 1, TOMESD)),
        Goal(f"{layer}, {kept}: tomesd / {TOMESD}", "layer", _ratio("tomesd", 20, TOMESD)),
        Goal(f"{layer}, keys and values, {every}: local-match / {TOMESD}", "layer", _ratio("local-match", 1, TOMESD)),
        Goal(f"{gain}: {ours}, {kept}", "step-1024", _share(ours, 20), Bar(0.95, least=True)),
        Goal(f"{gain}: {ours}, {every}", "step-1024", _share(ours, 1), Bar(0.90, least=True)),
        Goal(f"{gain}: tomesd, {kept}", "step-1024", _share("tomesd", 20)),
        Goal(f"{gain}: tomesd, {every}", "step-1024", _share("tomesd", 1)),
        Goal(f"{gain}: {TOMESD}, {kept}", "step-1024", _share(TOMESD, 20)),
        Goal(f"{gain}: {TOMESD}, {every}", "step-1024", _share(TOMESD, 1)),
        Goal(f"{medium}, CPU time, {kept}: {ours} / {TOMESD}", "step-512", _ratio(ours, 20, TOMESD, "cpu"), Bar(1.0)),
        Goal(f"{medium}, CPU time, {every}: {ours} / {TOMESD}", "step-512", _ratio(ours, 1, TOMESD, "cpu"), Bar(1.0)),
        Goal(f"{medium}, CPU time, {kept}: {ours} / tomesd", "step-512", _ratio(ours, 20, "tomesd", "cpu")),
        Goal(f"{large}: speed-up by local-match", "preset-1024", _speedup("local-match"), Bar(1.45, least=True)),
        Goal(f"{large}: local-match / {TOMESD}, same ratio and levels", "preset-1024", _ratio("local-match", 1, TOMESD)),
        Goal(f"{medium}: speed-up by local-match", "preset-512", _speedup("local-match")),
        Goal(f"{medium}: local-match / {TOMESD}, same ratio and levels", "preset-512", _ratio("local-match", 1, TOMESD)),
        Goal(f"{small}: least speed-up of any strategy behind gate=auto", "gate-256", _slowest_gated, Bar(0.98, least=True)),
        Goal(ungated, "gate-1024", _gated, Bar(0.97, least=True)),
        *[_small(key, cost) for key, cost in COSTS.items()],
    ]  # fmt: skip


def _text(value: Sequence[float]) -> str:
    middle, *ends = value
    return f"{middle:.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")


def _seconds(record: Record, variant: str, *parts: str, refresh: int | None = None) -> np.ndarray:
    """Of every round; the mean over ``refresh`` steps, of the base and of floors that of every step."""
    rounds = record["rounds"].get(variant)
    if rounds is None or ((refresh or 1) > 1 and "kept" not in rounds and not variant.startswith((BASE, FLOOR))):
        raise Unmeasured(variant)
    return np.sum([series(record["rounds"], variant, refresh)[part] for part in parts], axis=0)


def _of_parts(variant: str, *parts: str) -> Value:
    return lambda record: paired(_seconds(record, variant, *parts), _seconds(record, TOMESD, *parts))


def _row(record: Record, variant: str) -> Mapping[str, Any]:
    row = next((row for row in record["rows"] if row["variant"] == variant), None)
    if row is None:
        raise Unmeasured(variant)
    return row


def _at(column: str, variant: str, tokens: int) -> Value:
    def value(record: Record) -> Sequence[float]:
        own, peer = (_row(record, name) for name in (variant, TOMESD))
        return [own[column][own["tokens"].index(tokens)] / peer[column][peer["tokens"].index(tokens)]]

    return value


def _exponent(variant: str) -> Value:
    return lambda record: [_row(record, variant)["time_exponent"]]


def _small(key: str, cost: Small) -> Goal:
    def value(record: Record) -> Sequence[float]:
        return next(row["value"] for row in record["rows"] if row["cost"] == key)

    measure = cost.measure if cost.unit == "x" else f"{cost.measure}, {cost.unit}"
    return Goal(measure, "startup", value, None if cost.limit is None else Bar(cost.limit))


def _ratio(variant: str, refresh: int, to: str, part: str = "wall") -> Value:
    return lambda record: paired(*(_seconds(record, name, part, refresh=refresh) for name in (variant, to)))


def _share(variant: str, refresh: int) -> Value:
    def value(record: Record) -> Sequence[float]:
        own = _seconds(record, variant, "wall", refresh=refresh)
        share = share_of_gain(_seconds(record, BASE, "wall"), own, _seconds(record, FLOOR, "wall"))
        return share or [float("nan")]

    return value


def _speedup(variant: str) -> Value:
    return lambda record: paired(_seconds(record, BASE, "wall"), _seconds(record, variant, "wall"))


def _slowest_gated(record: Record) -> Sequence[float]:
    gated = [row["variant"] for row in record["rows"] if row["variant"].endswith(GATED)]
    return min((_speedup(name)(record) for name in gated), key=lambda value: value[0])


def _gated(record: Record) -> Sequence[float]:
    base, open_, gated = (_seconds(record, name, "wall") for name in (BASE, "retom-paper", f"retom-paper {GATED}"))
    return share_of(base, gated, open_)
