"""Makes the pictures of jobs and appends their rows."""

import io
import json
from typing import Any

from PIL import Image

from .folder import RunFolder, write_atomically
from .jobs import Job
from .metrics import as_json, metrics
from .models import set_scheduler
from .picture import Made, as_tensor, make_picture


class Generation:
    """Does jobs one by one; what is on the disk is the only result.

    Args:
        folder: where pictures, maps and rows go.
        pipe: the pipeline.
        names: the metrics that compare every picture with its base.
    """

    def __init__(self, folder: RunFolder, pipe: Any, names: list[str]) -> None:  # noqa: ANN401
        self.folder, self.pipe = folder, pipe
        self.metrics = {name: metrics()[name] for name in names}
        self.own_scheduler = pipe.scheduler

    def do(self, job: Job) -> None:
        """Make one picture. Its base must be there already.

        Raises:
            RuntimeError: the cell merged nothing though its ratio is above 0.
        """
        self.pipe.scheduler = self.own_scheduler
        if job.cell.study.scheduler is not None:
            set_scheduler(self.pipe, job.cell.study.scheduler)
        made = make_picture(self.pipe, job.cell, job.prompt, job.seed)
        write_atomically(self.folder.path / job.image, png_bytes(made.image))
        measured = self._measure(job) if job.base != job.id else {}
        self._keep_maps(job, made)
        self.folder.append(job.record() | made.counts | measured | {"seconds": round(made.seconds, 4)})

    def _measure(self, job: Job) -> dict[str, Any]:
        """From the saved 8-bit pictures, so that anyone can measure again."""
        picture, base = (as_tensor(Image.open(self.folder.path / f"images/{name}.png")) for name in (job.id, job.base))
        return {name: as_json(metric.measure(picture, base)) for name, metric in self.metrics.items()}

    def _keep_maps(self, job: Job, made: Made) -> None:
        """The merge maps of the first picture of every cell."""
        if made.sites and job.seed == 0 and job.prompt == job.cell.study.prompts[0]:
            kept = job.record() | {"sites": made.sites, "maps": made.maps}
            write_atomically(self.folder.path / "maps" / f"{job.id}.json", json.dumps(kept).encode())


def png_bytes(image: Image.Image) -> bytes:
    """A picture as a PNG file."""
    data = io.BytesIO()
    image.save(data, format="PNG")
    return data.getvalue()
