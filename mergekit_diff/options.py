"""The options of ``merging``: how a strategy is applied to a model."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .components import MergeStrategy
from .refreshing import checked
from .registry import one_of
from .scores import ROTARY
from .sites import ROLES

SHARE = ("cfg", "grid")
GATES = ("none", "auto")


@dataclass(frozen=True)
class Options:
    """What :func:`mergekit_diff.merging` takes besides a strategy and its settings; None takes the strategy's default.

    Args:
        roles: any of "self_attention", "key_value", "cross_attention", "feed_forward", or "block" alone.
        refresh: the number of steps that a plan is used for; or the steps at which plans are made, rising from 0, such as
            ``(0, 1, 2, 4, 8)``: often where tokens change much, seldom where they do not.
        levels: merge on this many of the finest grids; None may also mean all.
        share: "cfg": both halves of guidance use the conditional half's plan; "grid": sites of one grid share a plan within a
            step.
        gate: "none" merges wherever possible; "auto" skips a site where merging takes more time than it saves on this device;
            what ``gates()`` of an earlier session returned repeats its decisions.
        proportional: whether a merged key counts as often in self-attention as it has tokens: the logarithm of its group's
            size is added to its scores (proportional attention, Bolya et al. 2023, arXiv 2210.09461). If it is None for the
            strategy too, only where other tokens attend beside them: without it the text would gain weight even if copies
            merge.
        rotary: how "key_value" merges keys that were rotated by their positions: "values" (the representative's key, the mean of
            the values), "pick" (its key and value), "mean" (the mean of both), "before" (tokens merge before they are projected,
            and are rotated at the representative's position, as in the other roles). None is "values".
        span: with the role "block", how many consecutive blocks run on the same merged tokens, which are unmerged after the last
            one; a span ends where another list of blocks begins.
        whole: of a causal language model, how many of the first tokens of a text and of the newest tokens of each call stay
            whole; None is (4, 16).
        seed: seed of all noise.
        strict: raise where a session that merged nothing would warn.

    Raises:
        ValueError: a word is unknown or a number out of range.

    >>> Options(roles="feed_forward", levels=2).roles
    ('feed_forward',)
    """

    roles: Iterable[str] | None = None
    refresh: int | Sequence[int] | None = None
    levels: int | None = None
    share: Iterable[str] | None = None
    gate: str | Mapping[str, Mapping[str, Any]] = "none"
    proportional: bool | None = None
    rotary: str | None = None
    seed: int = 0
    strict: bool = False
    whole: tuple[int, int] | None = None
    span: int = 1

    def __post_init__(self) -> None:
        if self.roles is not None:
            object.__setattr__(self, "roles", _words(self.roles, ROLES, "role"))
            if not self.roles:
                raise ValueError(f"expected at least one role, got none; possible: {', '.join(ROLES)}")
            if "block" in self.roles and self.roles != ("block",):
                raise ValueError(f"expected role 'block' alone, since it includes the others; got {', '.join(self.roles)}")
        if self.share is not None:
            object.__setattr__(self, "share", _words(self.share, SHARE, "share"))
        if self.proportional is not None and type(self.proportional) is not bool:
            raise ValueError(f"expected proportional to be True, False or None, got {self.proportional!r}")
        if self.rotary is not None:
            one_of(self.rotary, ROTARY, "rotary")
        if self.whole is not None:
            numbers = tuple(self.whole) if isinstance(self.whole, Sequence) else ()
            if len(numbers) != 2 or any(type(n) is not int or n < 0 for n in numbers):
                raise ValueError(f"expected whole to be two whole numbers of at least 0, (first, newest); got {self.whole!r}")
            object.__setattr__(self, "whole", numbers)
        if not isinstance(self.gate, Mapping):
            one_of(self.gate, GATES, "gate")
        elif not all(isinstance(each, Mapping) and "merges" in each for each in self.gate.values()):
            raise ValueError(f"expected gate to be 'none', 'auto' or what a session's gates() returned, got {self.gate!r}")
        if type(self.seed) is not int:
            raise ValueError(f"expected seed to be a whole number, got {self.seed!r}")
        if self.refresh is not None:
            object.__setattr__(self, "refresh", checked(self.refresh))
            if self.gate == "auto" and not isinstance(self.refresh, int):
                raise ValueError(f"expected refresh to be a number with gate='auto', which divides by it; got {self.refresh!r}")
        if self.levels is not None and (type(self.levels) is not int or self.levels < 1):
            raise ValueError(f"expected levels to be a whole number of at least 1, or None; got {self.levels!r}")
        if type(self.span) is not int or self.span < 1:
            raise ValueError(f"expected span to be a whole number of at least 1, got {self.span!r}")

    def filled(self, strategy: MergeStrategy) -> "Options":
        """These options with None replaced by the strategy's defaults."""
        defaults = dataclasses.asdict(strategy.defaults())
        return dataclasses.replace(self, **{name: value for name, value in defaults.items() if getattr(self, name) is None})


OPTIONS = tuple(field.name for field in dataclasses.fields(Options))


def _words(words: Iterable[str], possible: tuple[str, ...], what: str) -> tuple[str, ...]:
    if not isinstance(words, Iterable):
        raise ValueError(f"expected {what} to be a word or several, got {words!r}")
    return tuple(one_of(word, possible, what) for word in ((words,) if isinstance(words, str) else words))
