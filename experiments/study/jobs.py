"""A job is one pipeline call for one picture. Its id hashes all that decides the picture, so none is made twice."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mergekit_diff.sources import library, sources

from .sweep import Cell


@dataclass(frozen=True)
class Job:
    """One picture to make.

    Args:
        id: hash of all that decides the picture; also its file name.
        base: id of the picture that it is compared with; its own for a base.
    """

    id: str
    base: str
    cell: Cell
    prompt: str
    seed: int

    @property
    def image(self) -> str:
        """Where the picture goes in the run folder: named by the id, never by the prompt."""
        return f"images/{self.id}.png"

    def of_base(self) -> "Job":
        """The job of the base."""
        return Job(self.base, self.base, self.cell.base(), self.prompt, self.seed)

    def record(self) -> dict[str, Any]:
        """The part of the row that is known before the picture is made."""
        cell = self.cell
        return {
            "job": self.id,
            "base": self.base,
            "cell": cell.name,
            "role": "base" if cell.strategy is None else "control" if cell.is_control else "cell",
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
        cells: what :func:`cells` made of a study.
        model: identity of the model.
    """
    made: dict[str, Job] = {}
    study = cells[0].study
    for prompt in study.prompts:
        for seed in range(study.seeds):
            pairs = [(cell, job_id(cell.base(), model, prompt, seed)) for cell in cells]
            for cell, base in pairs:
                made.setdefault(base, Job(base, base, cell.base(), prompt, seed))
            for cell, base in pairs:
                made_id = job_id(cell, model, prompt, seed)
                made.setdefault(made_id, Job(made_id, base, cell, prompt, seed))
    return list(made.values())


def units(todo: Sequence[Job]) -> list[list[Job]]:
    """Jobs of one prompt and seed together, each time the bases first."""
    found: dict[tuple[str, int], list[Job]] = {}
    for job in todo:
        found.setdefault((job.prompt, job.seed), []).append(job)
    return list(found.values())


def job_id(cell: Cell, model: str, prompt: str, seed: int) -> str:
    """16 hex digits that change with anything that decides the picture."""
    decides = {
        "model": model,
        "prompt": prompt,
        "seed": seed,
        **cell.picture_settings(),
        "strategy": repr(cell.strategy),
        "source": [hashlib.sha256(text.encode()).hexdigest() for text in sources(cell.strategy)],
        "library": None if cell.strategy is None else library(),
        "merging": cell.merging,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
