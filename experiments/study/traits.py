"""What else differs between a cell and its control: a comparison of strategies is often one of their side effects.

A strategy that chooses anew at every step differs from one that repeats its choice, and one that treats both halves of guidance
alike from one that does not, whatever their criterion. Such differences are listed, not refused: it is for the study to say
which of them it asks about.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergekit_diff.refreshing import Refresh, checked, planned

from .cell import Cell
from .choosing import drawn_from, is_scheduled, is_shared

SAME, OWN = "the same in both", "own representatives in each guidance half"
NEVER, ALWAYS, SCHEDULE = "never", "at every step", "schedule"
UNSET = {"levels": "all", "proportional": "where attention is joint", "rotary": "values"}
"""What None means."""
FOLLOWS = {"halves": "share", "redrawn": "refresh"}
"""Traits that follow from an option: where the sweep sets that option, they are meant to differ."""


@dataclass(frozen=True)
class Traits:
    """The options of ``merging`` with every default filled in, and what toy layers show of the strategy's choice.

    Args:
        roles: as in ``merging``.
        levels: as in ``merging``.
        share: as in ``merging``.
        proportional: as in ``merging``.
        rotary: as in ``merging``.
        refresh: as in ``merging``.
        gate: as in ``merging``.
        span: as in ``merging``.
        random: whether the choice depends on a draw.
        halves: whether both halves of guidance have the same representatives, by the strategy itself or by ``share``; so they
            have where there is no guidance.
        redrawn: when the choice changes though the tokens stay the same: "never", "at every step", "every N steps", "at M of N
            steps", or "schedule" where ratio or window change over the steps.
    """

    roles: list[str]
    levels: int | None
    share: list[str]
    proportional: bool | None
    rotary: str | None
    refresh: Any
    gate: str
    span: int
    random: bool
    halves: str
    redrawn: str


def traits(cell: Cell) -> Traits:
    """The traits of a cell that merges."""
    assert cell.strategy is not None and cell.merging is not None
    options = {name: value for name, value in cell.merging.items() if name not in ("seed", "whole")}
    role = options["roles"][0]
    deciding = drawn_from(cell.strategy, role)
    shared = cell.study.guidance <= 1 or "cfg" in options["share"] or is_shared(cell.strategy, role)
    redrawn = _redrawn("noise" in deciding, is_scheduled(cell.strategy, role), checked(options["refresh"]), cell.study.steps)
    return Traits(**options, random=bool(deciding), halves=SAME if shared else OWN, redrawn=redrawn)


def differences(cell: Cell, control: Cell) -> list[str]:
    """A line for everything that differs besides the swept values, such as "redrawn: never, control: at every step".

    Whether a choice is random at all is not listed: it is the strategy, and ``redrawn`` says what follows from it.
    """
    return _differences(cell, control, vars(traits(cell)), vars(traits(control)))


def records(planned: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    """By cell, what the run folder keeps: its traits, and under "differing" how it differs from its control besides."""
    by_name = {cell.name: cell for cell in planned}
    known = {cell.name: vars(traits(cell)) for cell in planned}
    pairs = [(cell, by_name[cell.against]) for cell in planned if cell.against in by_name]
    apart = {cell.name: _differences(cell, control, known[cell.name], known[control.name]) for cell, control in pairs}
    return {name: {**own, "differing": apart.get(name, [])} for name, own in known.items()}


def notes(recorded: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for every cell that differs from its control in more than the swept values."""
    apart = {name: record["differing"] for name, record in recorded.items() if record["differing"]}
    return [f"{name} differs from its control also in: {'; '.join(lines)}" for name, lines in apart.items()]


def _differences(cell: Cell, control: Cell, own: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The lines of :func:`differences`, from the traits of both."""
    apart = [name for name in own if own[name] != other[name] and name != "random"]
    meant = [name for name in apart if _is_meant(name, cell, control, own, other)]
    return [f"{name}: {_text(name, own[name])}, control: {_text(name, other[name])}" for name in apart if name not in meant]


def _redrawn(anew: bool, scheduled: bool, refresh: Refresh, steps: int) -> str:
    if steps == 1:
        return NEVER
    if anew and planned(refresh, steps) == steps:
        return ALWAYS
    if scheduled:
        return SCHEDULE
    if not anew or planned(refresh, steps) == 1:
        return NEVER
    return f"every {refresh} steps" if isinstance(refresh, int) else f"at {planned(refresh, steps)} of {steps} steps"


def _is_meant(name: str, cell: Cell, control: Cell, own: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the swept values themselves say that a trait differs."""
    option = FOLLOWS.get(name, name)
    if f"merging.{option}" in cell.values and own[option] != other[option]:
        return True
    same_strategy = type(cell.strategy) is type(control.strategy)  # then the sweep sets the schedule
    return name == "redrawn" and same_strategy and SCHEDULE in (own[name], other[name])


def _text(name: str, value: Any) -> str:  # noqa: ANN401
    return (", ".join(value) or "none") if isinstance(value, list) else UNSET[name] if value is None else str(value).lower()
