"""The table of probes: accuracy, and what merging changed on the same images."""

from collections.abc import Sequence

from ..results.inference import holm
from ..results.numbers import DASH
from ..results.proportions import mcnemar, paired_difference, wilson
from .comparison import UNMERGED, Probed

HEAD = ["features", "probe fitted to", "granted", "penalty", "accuracy %", "95% interval"]
PAIRED = ["lost", "gained", "points", "95% interval", "p (Holm)"]


def table(probed: Sequence[Probed]) -> list[list[str]]:
    """Heading and a row for every probe; those of merged features are compared with the unmerged model on the same images.

    "lost" counts test images that the unmerged model alone has right, "gained" those that the merged one alone has right.
    """
    (base,) = [one for one in probed if one.name == UNMERGED]
    changed = [_changed(one, base) for one in probed if one.granted]
    corrected = holm([mcnemar(*counts) for counts in changed])
    paired = iter(zip(changed, corrected, strict=True))
    lines = [_line(one) + (_paired(len(base.right), *next(paired)) if one.granted else [DASH] * len(PAIRED)) for one in probed]
    return [HEAD + PAIRED, *lines]


def _changed(one: Probed, base: Probed) -> tuple[int, int]:
    """How many images were lost and gained."""
    return int((base.right & ~one.right).sum()), int((one.right & ~base.right).sum())


def _line(one: Probed) -> list[str]:
    right, n = int(one.right.sum()), len(one.right)
    low, high = wilson(right, n)
    granted = f"{one.granted:.2f}" if one.granted else DASH
    return [one.name, one.fitted, granted, f"{one.penalty:g}", f"{100 * right / n:.1f}", f"[{100 * low:.1f}, {100 * high:.1f}]"]


def _paired(n: int, changed: tuple[int, int], p: float) -> list[str]:
    """Counts, the difference in points with its interval, and McNemar's p, Holm-corrected."""
    low, high = paired_difference(*changed, n)
    interval = f"[{100 * low:+.1f}, {100 * high:+.1f}]"
    return [*map(str, changed), f"{100 * (changed[1] - changed[0]) / n:+.1f}", interval, f"{p:.3f}" if p >= 0.001 else "< 0.001"]
