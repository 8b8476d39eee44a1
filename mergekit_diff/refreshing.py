"""When a plan is made anew: every few steps, or at the steps of a list."""

from collections.abc import Sequence
from itertools import pairwise

Refresh = int | tuple[int, ...]
"""The number of steps that a plan is used for, or the steps at which plans are made."""


def checked(refresh: int | Sequence[int]) -> Refresh:
    """The same, if it is a number of at least 1 or rising steps from 0 on.

    Raises:
        ValueError: it is neither.

    >>> checked([0, 1, 4])
    (0, 1, 4)
    """
    if type(refresh) is int and refresh >= 1:
        return refresh
    steps = () if isinstance(refresh, str) or not isinstance(refresh, Sequence) else tuple(refresh)
    if steps and all(type(step) is int for step in steps) and steps[0] == 0 and all(a < b for a, b in pairwise(steps)):
        return steps
    raise ValueError(f"expected refresh to be a whole number of at least 1 or rising steps from 0; got {refresh!r}")


def is_due(refresh: Refresh, made: int, now: int) -> bool:
    """Whether a plan that was made at one step is out of date at a later one.

    >>> is_due(5, made=0, now=4), is_due(5, made=0, now=5)
    (False, True)
    >>> is_due((0, 1, 4), made=1, now=3), is_due((0, 1, 4), made=1, now=4)
    (False, True)
    """
    if isinstance(refresh, int):
        return now - made >= refresh
    return any(made < step <= now for step in refresh)


def planned(refresh: Refresh, steps: int) -> int:
    """At how many steps of an image plans are made.

    >>> planned(5, 12), planned((0, 1, 4, 20), 12)
    (3, 3)
    """
    return -(-steps // refresh) if isinstance(refresh, int) else sum(step < steps for step in refresh)
