"""Where tokens are, and what follows them: the grid in a longer sequence, arguments with a row for every token, a cache."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """The grid of the tokens that may merge, and where they are in a longer sequence.

    Args:
        grid: N = ``prod(grid)`` tokens in raster order, ``(h, w)`` or ``(f, h, w)``.
        start: position of the first of them; if negative, counted from the end of the sequence, so that text in front may have
            any length. None: the sequence holds these tokens alone.

    >>> joint = Layout((4, 4), start=-16)
    >>> joint.begin(16, 16), joint.begin(20, 16), joint.begin(12, 8)
    (0, 4, 4)
    """

    grid: tuple[int, ...]
    start: int | None = None

    def begin(self, length: int, number: int) -> int:
        """Where the grid's tokens begin in a sequence, before or after merging.

        Args:
            length: of the sequence.
            number: of the grid's tokens in it: N, or M once they are merged.

        Raises:
            ValueError: they do not fit.
        """
        if self.start is None:
            begin = 0 if length == number else -1
        elif self.start >= 0:
            begin = self.start
        else:
            begin = length - number + (self.start + self.number)
        if begin < 0 or begin + number > length:
            raise ValueError(f"expected {number} tokens, got {length}; chunked calls cannot be merged")
        return begin

    @property
    def number(self) -> int:
        """N."""
        product = 1
        for side in self.grid:
            product *= side
        return product


def spatial(arguments: Mapping[str, Any]) -> Layout:
    """The grid of a channels-first first argument: ``(h, w)`` of (B, C, h, w), ``(f, h, w)`` of (B, C, f, h, w).

    >>> import torch
    >>> spatial({"sample": torch.zeros(2, 320, 64, 96)})
    Layout(grid=(64, 96), start=None)
    """
    return Layout(tuple(next(iter(arguments.values())).shape[2:]))


def as_they_are(x: Tensor) -> Tensor:
    """Tokens (B, L, C)."""
    return x


@dataclass(frozen=True)
class Rows:
    """An argument with a row for every token, such as its position: the rows of kept tokens go on, none is averaged.

    Args:
        argument: its name.
        axis: along which the rows lie; an axis that is shorter than the grid belongs to something else and is left alone.
        batched: whether axis 0 is the batch, so that every row of the batch can have a plan of its own.
        path: where the tensors are in a nested argument; all of them if empty.
        dims: how many axes a tensor with rows has, where one without them may be as long; None for any.
    """

    argument: str
    axis: int
    batched: bool = False
    path: tuple[int, ...] = ()
    dims: int | None = None


@dataclass(frozen=True)
class Cached:
    """Where a causal model's attention leaves its keys and values for later calls; there they merge, after it ran.

    Args:
        arguments: names by which the block and its attention may take the cache.
        index: of the block's own among ``cache.layers``.
        layers: classes of layers that can merge: they hold (B, heads, tokens, D) ``keys`` and ``values``, and grow.
        backend: says how the attention is computed now.
        backends: those that add a mask of numbers to the scores, as log sizes need it.
    """

    arguments: tuple[str, ...]
    index: int
    layers: frozenset[str] = frozenset({"DynamicLayer"})
    backend: Callable[[], str] = lambda: "sdpa"
    backends: tuple[str, ...] = ("sdpa", "eager")
