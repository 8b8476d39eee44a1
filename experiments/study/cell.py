"""A cell: one way to make the images of a study."""

from dataclasses import dataclass, field, replace
from typing import Any

from mergekit_diff import MergeStrategy

from .config import Study
from .labels import label
from .specs import IMAGE


@dataclass(frozen=True)
class Cell:
    """One way to make the images of a study.

    Args:
        name: what tables call it.
        study: the study with the swept values filled in.
        strategy: None for a base, which merges nothing.
        merging: the options of ``merging``, with the strategy's own defaults filled in.
        is_control: whether others are compared with it, besides the base.
        is_repeat: whether it repeats another cell with another merging seed.
        values: all swept values, under dotted keys.
        against: the name of the cell that this one is compared with: the control that has the same swept values except the
            control's own, the base in a study that compares quality with it, or the cell that it repeats.
    """

    name: str
    study: Study
    strategy: MergeStrategy | None = None
    merging: dict[str, Any] | None = None
    is_control: bool = False
    is_repeat: bool = False
    values: dict[str, Any] = field(default_factory=dict)
    against: str | None = None

    @property
    def role(self) -> str:
        """What rows call it: "base", "control", "repeat" or "cell"."""
        return "base" if self.strategy is None else "control" if self.is_control else "repeat" if self.is_repeat else "cell"

    def image_settings(self) -> dict[str, Any]:
        """What decides the image apart from merging, prompt and seed."""
        return {key: getattr(self.study, key) for key in (*IMAGE, "cache", "dtype", "device")}

    def base(self) -> "Cell":
        """The same without merging and without a cache."""
        swept = {key: value for key, value in self.values.items() if key in IMAGE}
        return Cell("base" + (f" ({label(swept)})" if swept else ""), replace(self.study, cache=None), values=swept)
