"""The schedules inside a part, and the part with each of them replaced by what it returns at one moment."""

import dataclasses
from dataclasses import dataclass
from typing import TypeVar

from .components import LayerContext, RatioSchedule, WindowSchedule
from .registry import Part
from .schedules import Constant

AnyPart = TypeVar("AnyPart", bound=Part)


@dataclass(frozen=True)
class Placed(WindowSchedule):
    """The window and offset that another schedule returned."""

    size: tuple[int, ...]
    shift: tuple[int, ...]

    def __call__(self, ctx: LayerContext) -> tuple[int, ...]:
        """The size that was returned."""
        return self.size

    def offset(self, ctx: LayerContext) -> tuple[int, ...]:
        """The offset that was returned."""
        return self.shift


def schedules(part: Part) -> list[RatioSchedule | WindowSchedule]:
    """The schedules among a part's settings, and among the settings of the parts inside it."""
    inside: list[RatioSchedule | WindowSchedule] = []
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if isinstance(value, RatioSchedule | WindowSchedule):
            inside.append(value)
        elif isinstance(value, Part):
            inside += schedules(value)
    return inside


def settled(part: AnyPart, ctx: LayerContext) -> AnyPart:
    """A copy of a part in which every schedule is replaced by what it returns for ``ctx``, so that step and time play no role."""
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
