"""Makes the pictures of jobs and appends their rows."""

import io
import json
from typing import Any

from PIL import Image
from torch import Tensor

from ..files import write_atomically
from ..metrics import as_json, metrics
from ..results.folder import RunFolder
from ..study.jobs import Job
from .gating import Gates, gated
from .picture import Made, as_tensor, make_picture, scheduled


class Generation:
    """Does jobs one by one; what is on the disk is the only result.

    Args:
        folder: where pictures, maps and rows go.
        pipe: the pipeline.
        names: the metrics of every picture; those of whole sets are left to :mod:`.finish`.
        gates: what was decided for cells with a gate.
    """

    def __init__(self, folder: RunFolder, pipe: Any, names: list[str], gates: Gates) -> None:  # noqa: ANN401
        self.folder, self.pipe, self.names, self.gates = folder, pipe, names, gates
        self._bases: dict[str, list[Tensor]] = {}

    def make(self, job: Job) -> Made:
        """Make one picture.

        Raises:
            RuntimeError: the cell merged nothing though its ratio is above 0, or the picture came to nothing.
        """
        with scheduled(self.pipe, job.cell):
            made = make_picture(self.pipe, gated(job.cell, self.gates), job.prompt, job.seed)
        if made.steps.latents and not made.steps.latents[-1].isfinite().all():
            raise RuntimeError(f"the latents are not finite numbers in {job.cell.study.dtype}")
        return made

    def keep(self, job: Job, made: Made) -> None:
        """Write the picture, its map and then its row. The base of a cell must be there already."""
        write_atomically(self.folder.path / job.image, png_bytes(made.image))
        if job.base == job.id:
            self._bases[job.id] = made.steps.latents
        else:
            made.counts["drift"] = self._drift(job, made)
        self._keep_maps(job, made)
        times = {"seconds": round(made.steps.seconds, 4), "step_seconds": made.steps.each}
        self.folder.append(job.record() | made.counts | self._measure(job) | times)

    def forget(self) -> None:
        """The next job has another prompt or seed, so the bases at hand are no longer needed."""
        self._bases = {}

    def _drift(self, job: Job, made: Made) -> list[float]:
        """Relative distance of the latents to the base's after every step."""
        if job.base not in self._bases:  # made before a kill: its picture is on the disk, its way there is made again
            self._bases[job.base] = self.make(job.of_base()).steps.latents
        pairs = zip(made.steps.latents, self._bases[job.base], strict=True)
        return [round(float((x - base).norm() / base.norm()), 5) for x, base in pairs]

    def _measure(self, job: Job) -> dict[str, Any]:
        """From the saved 8-bit pictures, so that anyone can measure again."""
        picture, base = (as_tensor(Image.open(self.folder.path / f"images/{name}.png")) for name in (job.id, job.base))
        return measure(self.names, picture, base if job.base != job.id else None, job.prompt)

    def _keep_maps(self, job: Job, made: Made) -> None:
        """The merge maps of the first picture of every cell."""
        if made.sites and job.seed == 0 and job.prompt == job.cell.study.prompts[0]:
            kept = job.record() | {"sites": made.sites, "maps": made.maps}
            write_atomically(self.folder.path / "maps" / f"{job.id}.json", json.dumps(kept).encode())


def measure(names: list[str], picture: Tensor, base: Tensor | None, prompt: str) -> dict[str, Any]:
    """The part of a row that metrics make.

    Args:
        names: of metrics; those of whole sets are passed over.
        picture: (3, H, W) uint8.
        base: the same without merging; None for a base itself, which is compared with nothing.
        prompt: of the picture.
    """
    known = {name: metrics()[name] for name in names}
    values = {name: metric.measure(picture, base) for name, metric in known.items() if metric.of == "pair" and base is not None}
    values |= {name: metric.measure(picture, prompt) for name, metric in known.items() if metric.of == "picture"}
    made_by = {name: known[name].made_by for name in values if known[name].made_by}
    return {name: as_json(value) for name, value in values.items()} | {"made_by": made_by}


def png_bytes(image: Image.Image) -> bytes:
    """A picture as a PNG file."""
    data = io.BytesIO()
    image.save(data, format="PNG")
    return data.getvalue()
