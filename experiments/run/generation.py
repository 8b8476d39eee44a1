"""Makes the images or videos of jobs and appends their rows."""

import json
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..files import write_atomically
from ..metrics import BY_FEATURES, features_of, metrics
from ..models import task_of
from ..results.folder import RunFolder
from ..results.row import Row
from ..study.jobs import Job
from .call import prepared
from .gating import Gates, gated
from .layers import Layers
from .result import Result, make_result


class Generation:
    """Does jobs one by one. What is on the disk is the only result.

    Args:
        folder: where images, maps and rows go.
        pipe: the pipeline.
        names: the metrics of every image; those of sets are left to :mod:`.finish`.
        gates: the decisions for cells with a gate.
    """

    def __init__(self, folder: RunFolder, pipe: Any, names: list[str], gates: Gates) -> None:  # noqa: ANN401
        self.folder, self.pipe, self.names, self.gates = folder, pipe, names, gates
        self._bases: dict[str, list[Tensor]] = {}

    def make(self, job: Job) -> Result:
        """Make one image.

        Raises:
            RuntimeError: the cell merged nothing though its ratio is above 0, or the latents or pixels are not finite.
        """
        with prepared(self.pipe, job.cell):
            return make_result(self.pipe, gated(job.cell, self.gates), job.prompt, job.seed)

    def keep(self, job: Job, result: Result) -> None:
        """Write the image, its maps and then its row. The base of a cell must be on the disk already."""
        write_atomically(self.folder.path / job.image, task_of(job.cell.study.model).encode(result.output))
        if job.base == job.id:
            self._bases[job.id] = result.steps.latents
        else:
            result.counts["drift"] = self._drift(job, result)
        self._keep_maps(job, result)
        measured = with_measures(result.counts, self._measure(job, result.counts.get("layers")))
        times = {"seconds": round(result.steps.seconds, 4), "step_seconds": result.steps.each}
        self.folder.append(Row(**job.record(), **measured, **times))

    def forget(self) -> None:
        """Drop the latents of bases: the next job has another prompt or seed."""
        self._bases = {}

    def _drift(self, job: Job, result: Result) -> list[float]:
        """Relative distance of the latents to the base's after every step."""
        if job.base not in self._bases:  # made before a kill: its image is on the disk, but its latents must be made again
            self._bases[job.base] = self.make(job.of_base()).steps.latents
        pairs = zip(result.steps.latents, self._bases[job.base], strict=True)
        return [round(float((x - base).norm() / base.norm()), 5) for x, base in pairs]

    def _measure(self, job: Job, layers: Layers | None) -> dict[str, Any]:
        """Measure the saved 8-bit output, so that anyone can measure again."""
        task = task_of(job.cell.study.model)
        output, base = (task.read(self.folder.path / each.image) for each in (job, job.of_base()))
        kept = {"features": features_of(output)} if set(BY_FEATURES) & set(self.names) else {}
        return measure(self.names, output, base if job.base != job.id else None, job.prompt, layers) | kept

    def _keep_maps(self, job: Job, result: Result) -> None:
        """The merge maps of the first image of every cell."""
        if result.sites and job.seed == 0 and job.prompt == job.cell.study.prompts[0]:
            record = job.record() | {"sites": result.sites, "maps": result.maps}
            write_atomically(self.folder.path / "maps" / f"{job.id}.json", json.dumps(record).encode())


def with_measures(counts: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a row from what was counted and what :func:`measure` returned; a metric that gave no number is a note."""
    notes = [f"{name} is not a number" for name in measured.get("absent", ())]
    both = {**counts, **{name: value for name, value in measured.items() if name != "absent"}}
    return both | ({"notes": [*counts.get("notes", ()), *notes]} if notes else {})


def measure(names: list[str], output: Tensor, base: Tensor | None, prompt: str, layers: Layers | None = None) -> dict[str, Any]:
    """Measure one output; returns the fields ``metrics`` and ``made_by`` of its row, and the names that gave NaN as ``absent``.

    What is not a number is left out, so that it is in no mean. An infinite PSNR is one: of two equal images.

    Args:
        names: of metrics; those of sets are skipped.
        output: as its task gives it to metrics, (3, H, W) uint8 for an image, (F, 3, H, W) for a video.
        base: the same without merging; None for a base itself, which is compared with nothing.
        prompt: of the output.
        layers: the errors of its layers, if they were recorded.
    """
    known = {name: metrics()[name] for name in names}
    values = {name: metric.value(output, base) for name, metric in known.items() if metric.of == "pair" and base is not None}
    values |= {name: metric.value(output, prompt) for name, metric in known.items() if metric.of == "single"}
    values |= {name: metric.value(layers, None) for name, metric in known.items() if metric.of == "layers" and layers}
    absent = [name for name, value in values.items() if math.isnan(value)]
    values = {name: value for name, value in values.items() if name not in absent}
    made_by = {name: known[name].made_by for name in values if known[name].made_by}
    return {"metrics": values, "made_by": made_by, "absent": absent}
