"""How the time and memory of planning grow with the number of tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mergekit_diff import LayerContext, MergeStrategy
from mergekit_diff.plan import as_ready
from mergekit_diff.signals import toy_signals

from ..models import resolve_device
from ..study.rehearsal import toy_context
from .config import Bench
from .memory import peak_bytes
from .peers import TOMESD, has_tomesd, tomesd
from .subject import subject
from .timing import seconds_of
from .variants import Entries

SIZES = tuple(2**k for k in range(10, 17))
"""1,024 to 65,536 tokens, on grids of h x h or h x 2h."""


@dataclass
class Curve:
    """Time and memory of planning at every number of tokens.

    Args:
        name: of the strategy or package.
        plan: called with (B, N, C) tokens and their grid.
        seconds: of every round, by number of tokens.
        peak_bytes: by number of tokens.
    """

    name: str
    plan: Callable[[Tensor, tuple[int, int]], object]
    seconds: dict[int, list[float]] = field(default_factory=dict)
    peak_bytes: dict[int, int] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Tokens, medians in ms, bytes, and the exponents of both."""
        milliseconds = [1000 * float(np.median(each)) for each in self.seconds.values()]
        tokens, peaks = list(self.peak_bytes), list(self.peak_bytes.values())
        row = {"variant": self.name, "tokens": tokens, "plan_ms": milliseconds, "peak_bytes": peaks}
        return row | {"time_exponent": exponent(tokens, milliseconds), "memory_exponent": exponent(tokens, peaks)}


def scaling(bench: Bench, entries: Entries, sizes: Sequence[int], advance: Callable[[], None] = lambda: None) -> list[Curve]:
    """The curves of every strategy and package.

    A curve ends where the next plan would take more memory than ``limit``, extrapolated from its growth so far.

    Args:
        bench: the measurement; its size only decides the width of the tokens.
        entries: the strategies.
        sizes: tokens, each twice the one before.
        advance: called after every size.
    """
    curves = [Curve(name, _planner(strategy, roles[0])) for name, (strategy, roles) in entries.items()]
    if has_tomesd():
        curves.append(Curve(TOMESD, lambda x, grid: tomesd(bench.ratio, grid)(x)))
    width = subject(replace(bench, at="block", levels=1, pixels=None), "meta").sample.shape[1]
    for tokens in sizes:
        alive = [curve for curve in curves if next_peak(list(curve.peak_bytes.values())) <= bench.limit * 2**30]
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(bench.batch, tokens, width, generator=draw).to(resolve_device(bench.device), getattr(torch, bench.dtype))
        _measure(alive, x, bench.rounds)
        advance()
    return curves


def grid_of(tokens: int) -> tuple[int, int]:
    """The most nearly square grid for a power of two."""
    doublings = tokens.bit_length() - 1
    return 2 ** (doublings // 2), 2 ** (doublings - doublings // 2)


def next_peak(peaks: Sequence[int]) -> float:
    """The expected bytes at the next size, if they grow again by the last factor."""
    return 0.0 if len(peaks) < 2 else peaks[-1] ** 2 / max(peaks[-2], 1)


def exponent(tokens: Sequence[int], values: Sequence[float]) -> float | None:
    """The e in values ~ tokens^e, by least squares on the logarithms; None for fewer than two sizes."""
    if len(tokens) < 2:
        return None
    return float(np.polyfit(np.log(tokens), np.log(values), 1)[0])


def _measure(curves: Sequence[Curve], x: Tensor, rounds: int) -> None:
    tokens = x.shape[1]
    for curve in curves:
        curve.peak_bytes[tokens] = peak_bytes(lambda curve=curve: curve.plan(x, grid_of(tokens)), x.device.type)
        curve.seconds[tokens] = []
    for turn in range(rounds):
        first = turn % max(len(curves), 1)
        for curve in [*curves[first:], *curves[:first]]:
            seconds = seconds_of(lambda curve=curve: curve.plan(x, grid_of(tokens)), x.device)
            curve.seconds[tokens].append(seconds["wall"])


def _planner(strategy: MergeStrategy, role: str) -> Callable[[Tensor, tuple[int, int]], object]:
    @cache
    def context(grid: tuple[int, int]) -> LayerContext:
        return toy_context(grid, role, step=10)  # halfway, where a linear schedule of the ratio is at its mean

    @torch.no_grad()
    def make_plan(x: Tensor, grid: tuple[int, int]) -> object:
        plan = strategy.plan(x, replace(context(grid), signals=toy_signals(strategy, x)))
        return plan if plan is None else as_ready(plan, len(x))

    return make_plan
