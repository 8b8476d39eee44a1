"""Can the embedded model distinguish strategies? Runs the study ``instrument`` and evaluates its rows."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from mergekit_diff import attach

from ...results.inference import detectable
from ...results.pairing import DIFFERENCE, RATIO, differences, interval
from ...results.row import Row, by_cell
from ...results.run import Run
from ...run.runner import run
from ...study.loading import load_study

RATIOS = (0.1, 0.25, 0.5, 0.75)


METRICS = "metrics=[feature,psnr,ssim,text]"  # KID needs images of the same look, which ship with one model alone


def instrument(out: Path, words: Sequence[str]) -> dict[str, Any]:
    """Run the study ``instrument`` in ``out`` and evaluate it with :func:`sensitivity`.

    Args:
        out: run folder; what is there already is kept.
        words: ``key=value``, what differs for the model at hand.
    """
    study = replace(load_study("instrument", [METRICS, *words]), out=str(out))
    if run(study, ["run", "instrument", f"out={out}", METRICS, *words]):
        raise RuntimeError(f"the study instrument in {out} is incomplete")
    return sensitivity(Run.read(out).rows)


def refusal(pipe: Any) -> str | None:  # noqa: ANN401
    """Why no token of a pipeline can be merged, such as a model of an unknown family; None if tokens can be merged."""
    try:
        attach(pipe, "tomesd").remove_hooks()
    except ValueError as error:
        return str(error)
    return None


def sensitivity(rows: Iterable[Row]) -> dict[str, Any]:
    """Whether the feature distance grows with ToMeSD's ratio, and how small a change of it these prompts can detect.

    Detectable changes are given as shares of the step from r = 0.25 to 0.5: of its logarithm ("by ratio", as studies compare the
    distance) and of the plain distance ("by difference"). The noise is the spread over prompts of the step itself ("step"), or of
    the difference between two merging seeds at one ratio, which is the noise of a small change.
    """
    cells = by_cell(rows)
    found = {(ratio, seed): cells[f"ratio={ratio}, seed={seed}"] for ratio in RATIOS for seed in (0, 1)}
    means = {ratio: interval(found[ratio, 0], "feature") for ratio in RATIOS}
    order = [middle for middle, _, _ in means.values()]
    return {
        "feature distance": means,
        "monotone": order == sorted(order),
        "n": len(differences(found[0.5, 0], found[0.25, 0], "feature")),
        "detectable share of the step": {f"by {by}": _shares(found, by) for by in (RATIO, DIFFERENCE)},
    }


def _shares(found: dict[tuple[float, int], list[Row]], by: str) -> dict[str, float]:
    step = list(differences(found[0.5, 0], found[0.25, 0], "feature", by).values())
    noises = {"step": step}
    noises |= {f"r = {r}": list(differences(found[r, 1], found[r, 0], "feature", by).values()) for r in RATIOS}
    return {name: detectable(noise, len(noise)) / mean(step) for name, noise in noises.items()}
