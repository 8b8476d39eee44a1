"""Where a cell's gate opens is decided once a run and written down: a picture must not depend on the clock.

Decisions are weighed on one step of one picture, kept in ``config.yaml``, and taken again by every process and on every resume.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mergekit_diff import merging

from ..study.sweep import Cell
from .picture import call_pipeline, scheduled

Gates = Mapping[str, Mapping[str, Any]]
"""By cell, then by site, what ``MergeSession.gates`` returns."""


def decide(pipe: Any, planned: Sequence[Cell], known: Gates) -> Gates:  # noqa: ANN401
    """What is known, and decisions for the cells with ``gate: auto`` of which nothing is known.

    Args:
        pipe: the pipeline.
        planned: the cells of a study.
        known: decisions of an earlier part of the run.
    """
    new = [cell for cell in planned if (cell.merging or {}).get("gate") == "auto" and cell.name not in known]
    return {**known, **{cell.name: _weigh(pipe, cell) for cell in new}}


def gated(cell: Cell, gates: Gates) -> Cell:
    """The cell with its decisions in place of ``auto``, if there are any."""
    return replace(cell, merging={**(cell.merging or {}), "gate": gates[cell.name]}) if cell.name in gates else cell


def _weigh(pipe: Any, cell: Cell) -> dict[str, Any]:  # noqa: ANN401
    first = replace(cell, study=replace(cell.study, steps=1))
    with warnings.catch_warnings(), scheduled(pipe, cell):
        warnings.filterwarnings("ignore", message="no token was merged")
        with merging(pipe, cell.strategy, **(cell.merging or {})) as session:
            call_pipeline(pipe, first, cell.study.prompts[0], 0)
        return session.gates()
