"""Numbers as text, with the digits that a column of them needs."""

import math
from collections.abc import Iterable

DASH = "–"  # noqa: RUF001


def decimals(values: Iterable[float | None]) -> int:
    """Digits after the point that show four figures of the largest value."""
    sizes = [abs(value) for value in values if value is not None and math.isfinite(value) and value]
    return min(6, max(0, 3 - math.floor(math.log10(max(sizes))))) if sizes else 0


def show(value: float | None, digits: int, sign: bool = False) -> str:
    """A number; a dash if it was not measured."""
    if value is None or math.isnan(value):
        return DASH
    return "∞" if math.isinf(value) else f"{value:{'+' if sign else ''},.{digits}f}"


def between(low: float, high: float, digits: int) -> str:
    """An interval, or nothing where there is none."""
    return f"{show(low, digits)} to {show(high, digits)}" if math.isfinite(low) and math.isfinite(high) else ""
