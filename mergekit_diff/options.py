"""How a strategy is applied to a model: the options of ``merging``, checked."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .components import MergeStrategy
from .registry import one_of
from .sites import ROLES

SHARE = ("cfg", "grid")
GATES = ("none", "auto")


@dataclass(frozen=True)
class Options:
    """What :func:`mergekit_diff.merging` takes beside a strategy and its settings.

    Args:
        roles: any of "self_attention", "key_value", "cross_attention", "feed_forward"; None is the strategy's default.
        refresh: a plan serves this many steps; None is the strategy's default.
        levels: merge on this many of the finest grids; None is the strategy's default, which may be all.
        share: "cfg": rows are [uncond, cond] and the conditional half's plan serves both; "grid": sites of one grid share a
            plan within a step; None is the strategy's default.
        gate: "none" merges wherever it can; "auto" leaves alone a site where merging costs more time than it saves on this
            device; the decisions of an earlier session, its ``gates()``, are taken again.
        proportional: whether a merged key counts as often in self-attention as it has tokens: the logarithm of its group's
            size is added to its scores (proportional attention, Bolya et al. 2023, arXiv 2210.09461); None is the strategy's
            default.
        seed: of all noise.
        strict: raise where a session that merged nothing would warn.

    Raises:
        ValueError: a word is unknown or a number out of range.
    """

    roles: Iterable[str] | None = None
    refresh: int | None = None
    levels: int | None = None
    share: Iterable[str] | None = None
    gate: str | Mapping[str, Mapping[str, Any]] = "none"
    proportional: bool | None = None
    seed: int = 0
    strict: bool = False

    def __post_init__(self) -> None:
        if self.roles is not None:
            object.__setattr__(self, "roles", _words(self.roles, ROLES, "role"))
            if not self.roles:
                raise ValueError(f"roles names at least one role; possible: {', '.join(ROLES)}")
        if self.share is not None:
            object.__setattr__(self, "share", _words(self.share, SHARE, "share"))
        if self.proportional is not None and type(self.proportional) is not bool:
            raise ValueError(f"expected proportional to be true, false or null; got {self.proportional!r}")
        if not isinstance(self.gate, Mapping):
            one_of(self.gate, GATES, "gate")
        elif not all(isinstance(each, Mapping) and "merges" in each for each in self.gate.values()):
            raise ValueError(f"gate is 'none', 'auto' or what a session's gates() returned; given {self.gate!r}")
        for name in ("refresh", "levels"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name} is a whole number of at least 1, or None; given {value!r}")

    def filled(self, strategy: MergeStrategy) -> "Options":
        """These options with the strategy's own defaults in place of None."""
        defaults = dataclasses.asdict(strategy.defaults())
        return dataclasses.replace(self, **{name: value for name, value in defaults.items() if getattr(self, name) is None})


OPTIONS = tuple(field.name for field in dataclasses.fields(Options))


def _words(given: Iterable[str], possible: tuple[str, ...], what: str) -> tuple[str, ...]:
    words = (given,) if isinstance(given, str) else tuple(given)
    return tuple(one_of(word, possible, what) for word in words)
