"""What every cell is compared with: its control, the base, or a repeat of itself."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .cell import Cell
from .choosing import drawn_from
from .config import BASE, Study, is_quality
from .labels import label


def paired(expanded: Sequence[Cell], study: Study, control: dict[str, Any]) -> list[Cell]:
    """The cells of a study, each with the name of what it is compared with.

    Args:
        expanded: every cell of the sweep.
        study: whose cells they are.
        control: the swept values of the control, flat; empty if the study has none, or compares with the base.

    Raises:
        ValueError: no cell is the control, or a cell has no counterpart among the controls.
    """
    if _against_base(study):
        return [replace(cell, against=cell.base().name) for cell in expanded]
    if control and not any(cell.is_control for cell in expanded):
        raise ValueError(f"control: expected a cell with {label(control)}, got cells {'; '.join(cell.name for cell in expanded)}")
    pairs = [replace(cell, against=_control_of(cell, expanded, control)) for cell in expanded]
    alone = [cell.name for cell in pairs if control and not cell.is_control and cell.against is None]
    if alone:
        raise ValueError(f"control: expected a counterpart of {alone[0]!r} with {label(control)} and all else equal, got none")
    return pairs


def repeats(pairs: Sequence[Cell]) -> list[Cell]:
    """One cell again with a merging seed that no other cell has (A/A): the control if it is random, else the first random cell.

    The two differ by chance alone, so their difference shows how large one may be that means nothing. Empty if no cell is random.
    """
    controls_first = sorted(pairs, key=lambda cell: not cell.is_control)
    chosen = next((cell for cell in controls_first if _draws(cell)), None)
    if chosen is None:
        return []
    seed = 1 + max(cell.study.merging.seed for cell in pairs)
    again = replace(chosen, name=f"{chosen.name} again", against=chosen.name, is_control=False, is_repeat=True)
    study = replace(chosen.study, merging=replace(chosen.study.merging, seed=seed))
    values = chosen.values | {"merging.seed": seed}
    return [replace(again, study=study, values=values, merging=(chosen.merging or {}) | {"seed": seed})]


def _against_base(study: Study) -> bool:
    """Whether cells are compared with the base: no cell is their control, and the metric that decides does not read the base."""
    return study.control in ({}, BASE) and study.primary is not None and is_quality(study.primary.metric)


def _control_of(cell: Cell, expanded: Sequence[Cell], control: dict[str, Any]) -> str | None:
    values = cell.values | control
    return next((other.name for other in expanded if control and not cell.is_control and other.values == values), None)


def _draws(cell: Cell) -> bool:
    return cell.strategy is not None and cell.merging is not None and bool(drawn_from(cell.strategy, cell.merging["roles"][0]))
