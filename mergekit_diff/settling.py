"""Schedules inside a part: which there are, and the part as it is when they stand still."""

import dataclasses
from dataclasses import dataclass
from typing import TypeVar

from .components import LayerContext, RatioSchedule, WindowSchedule
from .registry import Part
from .schedules import Constant

AnyPart = TypeVar("AnyPart", bound=Part)


@dataclass(frozen=True)
class Placed(WindowSchedule):
    """What another schedule returned."""

    size: tuple[int, ...]
    shift: tuple[int, ...]

    def __call__(self, ctx: LayerContext) -> tuple[int, ...]:
        """As it was."""
        return self.size

    def offset(self, ctx: LayerContext) -> tuple[int, ...]:
        """As it was."""
        return self.shift


def schedules(part: Part) -> list[RatioSchedule | WindowSchedule]:
    """The schedules among a part's settings, and among those of the parts inside it."""
    found: list[RatioSchedule | WindowSchedule] = []
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, RatioSchedule | WindowSchedule):
            found.append(value)
        elif isinstance(value, Part):
            found += schedules(value)
    return found


def settled(part: AnyPart, ctx: LayerContext) -> AnyPart:
    """A part that does without the step and the timestep: each of its schedules stands still at what it returns for ``ctx``."""
    changes: dict[str, Part] = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, RatioSchedule):
            changes[field.name] = Constant(value(ctx))
        elif isinstance(value, WindowSchedule):
            changes[field.name] = Placed(value(ctx), value.offset(ctx))
        elif isinstance(value, Part):
            changes[field.name] = settled(value, ctx)
    return dataclasses.replace(part, **changes)
