"""Decides once a run where a cell's gate opens, and writes it down: an image must not depend on the clock.

Decisions are measured on one step of one image, kept in ``config.yaml``, and reused by every process and on every resume.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mergekit_diff import merging

from ..study.cell import Cell
from ..study.seeds import for_image
from .call import call_pipeline, scheduled

Gates = Mapping[str, Mapping[str, Any]]
"""By cell, then by site, what ``MergeSession.gates`` returns."""


def decide(pipe: Any, planned: Sequence[Cell], known: Gates) -> Gates:  # noqa: ANN401
    """The known decisions, and new ones for cells with ``gate: auto`` that have none.

    Args:
        pipe: the pipeline.
        planned: the cells of a study.
        known: decisions of an earlier part of the run.
    """
    new = [cell for cell in planned if (cell.merging or {}).get("gate") == "auto" and cell.name not in known]
    return {**known, **{cell.name: _decide(pipe, cell) for cell in new}}


def gated(cell: Cell, gates: Gates) -> Cell:
    """The cell with its decisions in place of ``auto``, if it has any."""
    return replace(cell, merging={**(cell.merging or {}), "gate": gates[cell.name]}) if cell.name in gates else cell


def _decide(pipe: Any, cell: Cell) -> dict[str, Any]:  # noqa: ANN401
    assert cell.merging is not None  # a base has no gate
    one_step, prompt = replace(cell, study=replace(cell.study, steps=1)), cell.study.prompts[0]
    with warnings.catch_warnings(), scheduled(pipe, cell):
        warnings.filterwarnings("ignore", message="no token was merged")
        with merging(pipe, cell.strategy, **for_image(cell.merging, prompt, 0)) as session:
            call_pipeline(pipe, one_step, prompt, 0)
        return session.gates()
