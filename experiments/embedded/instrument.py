"""Can the embedded model tell strategies apart? The study ``instrument``, and what its rows say."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from ..folder import RunFolder
from ..loading import load_study
from ..runner import run
from ..statistics import by_cell, detectable, differences, interval

RATIOS = (0.1, 0.25, 0.5, 0.75)


def instrument(out: Path) -> dict[str, Any]:
    """Run the study ``instrument`` in ``out`` and measure it with :func:`sensitivity`."""
    study = replace(load_study("instrument"), out=str(out))
    if run(study, ["run", "instrument", f"out={out}"]):
        raise RuntimeError(f"the study instrument is not complete in {out}")
    return sensitivity(RunFolder(out).rows().values())


def sensitivity(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Whether the feature distance grows with ToMeSD's ratio, and how small a difference of it these prompts can detect.

    The noise of a small difference is that of two settings alike in all but the seed of their merging; that of a step between
    two ratios is larger, because some prompts suffer more from it than others. Both as a share of the step from 0.25 to 0.5.
    """
    cells = by_cell(rows)
    found = {(ratio, seed): cells[f"ratio={ratio}, seed={seed}"] for ratio in RATIOS for seed in (0, 1)}
    means = {ratio: interval(found[ratio, 0], "feature") for ratio in RATIOS}
    step = list(differences(found[0.5, 0], found[0.25, 0], "feature").values())
    alike = {ratio: list(differences(found[ratio, 1], found[ratio, 0], "feature").values()) for ratio in RATIOS}
    order = [middle for middle, _, _ in means.values()]
    return {
        "feature distance": means,
        "monotone": order == sorted(order),
        "n": len(step),
        "detectable share of the step": {ratio: detectable(pairs, len(pairs)) / mean(step) for ratio, pairs in alike.items()},
        "detectable share of the step, by its own spread": detectable(step, len(step)) / mean(step),
    }
