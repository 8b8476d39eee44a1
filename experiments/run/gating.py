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
from .call import call_pipeline, prepared

Gates = Mapping[str, Mapping[str, Any]]
"""By cell, then by site, what ``MergeSession.gates`` returns."""


def decide(pipe: Any, planned: Sequence[Cell], known: Gates) -> Gates:  # noqa: ANN401
    """The known decisions, and new ones for cells with ``gate: auto`` that have none; a repeat takes those of its cell.

    Args:
        pipe: the pipeline.
        planned: the cells of a study.
        known: decisions of an earlier part of the run.
    """
    asked = [cell for cell in planned if (cell.merging or {}).get("gate") == "auto" and not cell.is_repeat]
    return {**known, **{cell.name: _decide(pipe, cell) for cell in asked if cell.name not in known}}


def gated(cell: Cell, gates: Gates) -> Cell:
    """The cell with its decisions in place of ``auto``, if it has any."""
    decisions = gates.get(_decided_as(cell))
    return cell if decisions is None else replace(cell, merging={**(cell.merging or {}), "gate": decisions})


def _decided_as(cell: Cell) -> str:
    """Name of the cell whose decisions apply: a repeat must differ from its cell by the noise of merging alone."""
    return cell.against if cell.is_repeat and cell.against else cell.name


def _decide(pipe: Any, cell: Cell) -> dict[str, Any]:  # noqa: ANN401
    assert cell.merging is not None  # a base has no gate
    one_step, prompt = replace(cell, study=replace(cell.study, steps=1)), cell.study.prompts[0]
    with warnings.catch_warnings(), prepared(pipe, cell):
        warnings.filterwarnings("ignore", message="no token was merged")
        with merging(pipe, cell.strategy, **for_image(cell.merging, prompt, 0)) as session:
            call_pipeline(pipe, one_step, prompt, 0)
        return session.gates()
