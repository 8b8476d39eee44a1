"""A job is one pipeline call for one image. Its id hashes everything that decides the image, so none is made twice."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mergekit_diff.sources import library, sources

from ..models import task_of
from .cell import Cell
from .seeds import merging_seed, noise_seed


@dataclass(frozen=True)
class Job:
    """One image to make.

    Args:
        id: hash of everything that decides the image; also its file name.
        base: id of the image that it is compared with; its own for a base.
        cell: how it is made.
        prompt: of the image.
        seed: number of the image among those of its prompt.
    """

    id: str
    base: str
    cell: Cell
    prompt: str
    seed: int

    @property
    def image(self) -> str:
        """Its file in the run folder: named by the id, never by the prompt."""
        return f"images/{self.id}{task_of(self.cell.study.model).suffix}"

    def of_base(self) -> "Job":
        """The job of the base."""
        return Job(self.base, self.base, self.cell.base(), self.prompt, self.seed)

    def record(self) -> dict[str, Any]:
        """The part of the row that is known before the image is made."""
        cell = self.cell
        return {
            "job": self.id,
            "base": self.base,
            "cell": cell.name,
            "role": cell.role,
            "against": cell.against,
            "values": cell.values,
            "prompt": self.prompt,
            "seed": self.seed,
            "strategy": "base" if cell.strategy is None else repr(cell.strategy),
            "merging": cell.merging,
            "image": self.image,
        }


def jobs(cells: Sequence[Cell], model: str) -> list[Job]:
    """All jobs of a study, for every prompt and seed the bases first.

    Args:
        cells: of one study, as :func:`.sweep.cells` returns them.
        model: identity of the model.
    """
    by_id: dict[str, Job] = {}
    study = cells[0].study
    for prompt in study.prompts:
        for seed in range(study.seeds):
            pairs = [(cell, job_id(cell.base(), model, prompt, seed)) for cell in cells]
            for cell, base in pairs:
                by_id.setdefault(base, Job(base, base, cell.base(), prompt, seed))
            for cell, base in pairs:
                own = job_id(cell, model, prompt, seed)
                by_id.setdefault(own, Job(own, base, cell, prompt, seed))
    return list(by_id.values())


def units(todo: Sequence[Job]) -> list[list[Job]]:
    """Jobs grouped by prompt and seed, in each group the bases first."""
    groups: dict[tuple[str, int], list[Job]] = {}
    for job in todo:
        groups.setdefault((job.prompt, job.seed), []).append(job)
    return list(groups.values())


def job_id(cell: Cell, model: str, prompt: str, seed: int) -> str:
    """16 hex digits that change with anything that decides the image."""
    decides = {
        "model": model,
        "prompt": prompt,
        "noise": noise_seed(prompt, seed),
        **cell.image_settings(),
        "strategy": repr(cell.strategy),
        "source": [hashlib.sha256(text.encode()).hexdigest() for text in sources(cell.strategy)],
        "library": None if cell.strategy is None else library(),
        "merging": cell.merging,
        "merging noise": None if cell.merging is None else merging_seed(cell.merging["seed"], prompt, seed),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
