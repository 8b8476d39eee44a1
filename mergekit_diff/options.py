"""How a strategy is applied to a model: the options of ``merging``, checked."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from .components import MergeStrategy, one_of
from .sites import ROLES

SHARE = ("cfg", "grid")
GATES = ("none",)


@dataclass(frozen=True)
class Options:
    """What :func:`mergekit_diff.merging` takes beside a strategy and its settings.

    Args:
        roles: any of "self_attention", "key_value", "cross_attention", "feed_forward"; None is the strategy's default.
        refresh: a plan serves this many steps; None is the strategy's default.
        levels: merge on this many of the finest grids; None is the strategy's default, which may be all.
        share: "cfg": rows are [uncond, cond] and the conditional half's plan serves both; "grid": sites of one grid share a
            plan within a step.
        gate: "none".
        seed: of all noise.
        strict: raise where a session that merged nothing would warn.

    Raises:
        ValueError: a word is unknown or a number out of range.
    """

    roles: Iterable[str] | None = None
    refresh: int | None = None
    levels: int | None = None
    share: Iterable[str] = ()
    gate: str = "none"
    seed: int = 0
    strict: bool = False

    def __post_init__(self) -> None:
        if self.roles is not None:
            object.__setattr__(self, "roles", _words(self.roles, ROLES, "role"))
            if not self.roles:
                raise ValueError(f"roles names at least one role; possible: {', '.join(ROLES)}")
        object.__setattr__(self, "share", _words(self.share, SHARE, "share"))
        one_of(self.gate, GATES, "gate")
        for name in ("refresh", "levels"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name} is a whole number of at least 1, or None; given {value!r}")

    def filled(self, strategy: MergeStrategy) -> "Options":
        """These options with the strategy's own defaults in place of None."""
        return dataclasses.replace(
            self,
            roles=strategy.roles if self.roles is None else self.roles,
            refresh=strategy.refresh if self.refresh is None else self.refresh,
            levels=strategy.levels if self.levels is None else self.levels,
        )


NAMES = tuple(field.name for field in dataclasses.fields(Options))


def _words(given: Iterable[str], possible: tuple[str, ...], what: str) -> tuple[str, ...]:
    words = (given,) if isinstance(given, str) else tuple(given)
    return tuple(one_of(word, possible, what) for word in words)
