"""What a session records while a model runs, for the strategies that ask: the denoiser's outputs, and those of every layer."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .clock import Clock
from .components import LayerContext, MergeStrategy
from .guidance import Guidance

RECORDED = ("prediction", "output", "age")
"""The signals that take memory between two steps."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """The denoiser's last outputs, as (B, N) maps on a site's grid for the rows that a strategy sees; means over channels.

    Args:
        guidance: how far the two halves of guidance were apart at the last step, the same for both; None without guidance.
        change: how much the output of each row changed from the step before the last to the last; None after one step.

    Frames that a video is given are in the maps too, though not in the grid of what merges. Where the output has other images
    beside the one that is made, both are None.
    """

    guidance: Tensor | None = None
    change: Tensor | None = None


@dataclass
class Outputs:
    """What every hooked layer returned at the last step, (B, N, C) of the grid's tokens, unmerged.

    Args:
        last: by site, role, number of the layer in its role, and place in what it returns; those of the call that runs.
    """

    last: dict[tuple[str, str, int, int], Tensor] = field(default_factory=dict)
    _calls: dict[int, dict[tuple[str, str, int, int], Tensor]] = field(default_factory=dict)

    def select(self, call: int) -> None:
        """The call of this number within a step begins."""
        self.last = self._calls.setdefault(call, {})

    def clear(self) -> None:
        """Forget them all."""
        self.last, self._calls = {}, {}

    def tensors(self) -> list[Tensor]:
        """All that are kept."""
        return [tensor for calls in self._calls.values() for tensor in calls.values()]


class Records:
    """The records of one session; empty before the first step of every image, and after the session.

    Args:
        words: what the strategy asks for.
        clock: of the session.
        guidance: how the denoiser gets the halves of guidance.
    """

    def __init__(self, words: Sequence[str], clock: Clock, guidance: Guidance) -> None:
        self.words = tuple(words)
        self.outputs = Outputs() if "output" in words else None
        self.most = dict.fromkeys((word for word in RECORDED if word in words), 0)
        self._clock, self._guidance, self._image = clock, guidance, -1
        self._steps: dict[int, dict[int, Tensor]] = {}

    def begin(self) -> None:
        """A denoiser is called, and the clock knows which call it is."""
        if self._clock.image != self._image:
            self.clear()
            self._image = self._clock.image
        for step in sorted(step for step in self._steps if step < self._clock.step)[:-2]:
            del self._steps[step]
        if self.outputs is not None:
            self.outputs.select(self._clock.call)

    def end(self, output: Any, channels: int | None, contexts: Iterable[LayerContext]) -> None:  # noqa: ANN401
        """It has returned.

        Args:
            output: what it returned.
            channels: the axis of its channels, as in :class:`mergekit_diff.sites.Family`.
            contexts: of the plans in use.

        Raises:
            ValueError: a strategy asks for predictions, and the output is none.
        """
        if "prediction" in self.words:
            self._steps.setdefault(self._clock.step, {})[self._clock.call] = sample_of(output, channels).detach()
        self._measure(contexts)

    def clear(self) -> None:
        """Forget what was recorded."""
        self._steps = {}
        if self.outputs is not None:
            self.outputs.clear()

    def prediction(self, grid: tuple[int, ...], rows: int) -> Prediction | None:
        """The maps for this many rows of tokens on a grid; None at the first step.

        Raises:
            ValueError: the outputs do not lie on such a grid.
        """
        past = [self._steps[step] for step in sorted(self._steps) if step < self._clock.step]
        if not past:
            return None
        last, now = past[-1], self._clock.call
        before = past[-2].get(now) if len(past) > 1 else None
        change = None if now not in last or before is None else _apart(last[now], before)
        return Prediction(_on_grid(self._halves_apart(last), grid, rows), _on_grid(change, grid, rows))

    def _halves_apart(self, last: Mapping[int, Tensor]) -> Tensor | None:
        if self._guidance.form == "calls":
            return _apart(last[0], last[1]) if 0 in last and 1 in last else None
        first = last.get(0)
        return _apart(*first.chunk(2)) if first is not None and self._guidance.halves(len(first)) else None

    def _measure(self, contexts: Iterable[LayerContext]) -> None:
        held: dict[str, list[Tensor]] = {word: [] for word in self.most}
        for ctx in contexts if "age" in held else ():
            held["age"] += [ctx.signals["age"]] if "age" in ctx.signals else []
        if "prediction" in held:
            held["prediction"] = [sample for calls in self._steps.values() for sample in calls.values()]
        if self.outputs is not None:
            held["output"] = self.outputs.tensors()
        for word, tensors in held.items():
            self.most[word] = max(self.most[word], sum(t.numel() * t.element_size() for t in tensors))


def check_recorded(strategy: MergeStrategy, channels: int | None, *, causal: bool) -> None:
    """Refuse a strategy that asks for what a model cannot give.

    Args:
        strategy: which.
        channels: of what the model returns, 0 if that is no prediction.
        causal: whether it is a language model, which has no denoising steps.

    Raises:
        ValueError: with the signal.
    """
    given = () if causal else ("output", "age") if channels == 0 else RECORDED
    word = next((word for word in RECORDED if word in strategy.asks() and word not in given), None)
    if word is not None:
        name = getattr(strategy, "name", type(strategy).__name__)
        raise ValueError(f"strategy '{name}' needs '{word}', which this model does not give: expected a denoiser")


def sample_of(output: Any, channels: int | None) -> Tensor:  # noqa: ANN401
    """What a denoiser predicts, with the channels behind the batch: (B, C, ...).

    Raises:
        ValueError: it returned something else, such as the residuals of a ControlNet.
    """
    sample = getattr(output, "sample", output[0] if isinstance(output, tuple) else output)
    if isinstance(sample, list) and all(isinstance(each, Tensor) for each in sample):
        sample = torch.stack(sample)  # a tensor for every row
    if channels == 0 or not isinstance(sample, Tensor) or sample.dim() < 3:
        raise ValueError(f"expected a denoiser that returns its prediction as a tensor, got {type(output).__name__}")
    return sample.movedim((-1 if sample.dim() == 3 else 1) if channels is None else channels, 1)


def _apart(a: Tensor, b: Tensor) -> Tensor | None:
    """(B, ...) mean distance over the channels of two (B, C, ...) outputs; None if their shapes differ."""
    return None if a.shape != b.shape else (a.float() - b.float()).abs().mean(1)


def _on_grid(values: Tensor | None, grid: tuple[int, ...], rows: int) -> Tensor | None:
    """(R, ...) values averaged over the area of every token, for a multiple of R rows: (rows, N); None for other rows."""
    if values is None:
        return None
    shape, n = tuple(values.shape), math.prod(grid)
    if values.dim() == 2 and len(grid) != 1 and values.shape[1] >= n:
        values = values[:, :n]  # a sequence of tokens; those of reference images are behind
    else:
        values = values.flatten(0, 1) if values.dim() == len(grid) + 2 else values  # a row for every frame
        if values.dim() != len(grid) + 1:
            raise ValueError(f"'prediction': expected an output on a grid of {grid}, got one of {shape[1:]}")
        pools: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
        values = torch.flatten(pools[len(grid) - 1](values[:, None], grid), 1)
    return values.repeat(rows // len(values), 1) if rows % len(values) == 0 else None
