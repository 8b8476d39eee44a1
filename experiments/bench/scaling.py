"""How the time and memory of planning grow with the number of tokens."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mergekit_diff import MergeStrategy
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

SIZES = tuple(2**k for k in range(10, 18))
"""1,024 to 131,072 tokens, on grids whose sides are equal or differ by a factor of 2."""
Prepare = Callable[[Tensor, tuple[int, ...]], Callable[[], object]]
"""From (B, N, C) tokens and their grid to what makes a plan for them; only that is measured."""


@dataclass
class Curve:
    """Time and memory of planning at every number of tokens.

    Args:
        name: of the strategy or package.
        prepare: called once for every number of tokens.
        seconds: of every round, by number of tokens.
        peak_bytes: by number of tokens.
    """

    name: str
    prepare: Prepare
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

    A curve ends where the next plan would take more memory than ``limit`` or more time than ``patience``, extrapolated from its
    growth so far.

    Args:
        bench: the measurement; its size only decides the width of the tokens.
        entries: the strategies.
        sizes: tokens, each twice the one before.
        advance: called after every size.
    """
    curves = [Curve(name, _planner(strategy, roles[0])) for name, (strategy, roles) in entries.items()]
    if has_tomesd() and bench.grid_axes() == 2:
        curves.append(Curve(TOMESD, lambda x, grid: lambda: tomesd(bench.ratio, grid)(x)))
    width = _width(bench)
    for tokens in sizes:
        alive = [curve for curve in curves if ended_by(curve.row(), bench) is None]
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(bench.batch, tokens, width, generator=draw).to(resolve_device(bench.device), getattr(torch, bench.dtype))
        _measure(alive, x, grid_of(tokens, bench.grid_axes()), bench.rounds)
        advance()
    return curves


def grid_of(tokens: int, axes: int) -> tuple[int, ...]:
    """The most nearly square or cubic grid for a power of two, its shortest sides first.

    >>> grid_of(2048, 1), grid_of(2048, 2), grid_of(2048, 3)
    ((2048,), (32, 64), (8, 16, 16))
    """
    doublings = tokens.bit_length() - 1
    return tuple(2 ** ((doublings + axis) // axes) for axis in range(axes))


def ended_by(row: dict[str, Any], bench: Bench) -> str | None:
    """Which limit the plan after a curve's last one would exceed, as text; None if neither."""
    if expected(row["peak_bytes"]) > bench.limit * 2**30:
        return f"> {bench.limit:g} GiB"
    return f"> {bench.patience:g} s" if expected(row["plan_ms"]) > 1000 * bench.patience else None


def expected(values: Sequence[float]) -> float:
    """The value at the next size, if it grows again by the last factor."""
    return 0.0 if len(values) < 2 else values[-1] ** 2 / max(values[-2], 1e-9)


def exponent(tokens: Sequence[int], values: Sequence[float]) -> float | None:
    """The e in values ~ tokens^e, by least squares on the logarithms; None for fewer than two sizes."""
    if len(tokens) < 2:
        return None
    return float(np.polyfit(np.log(tokens), np.log(values), 1)[0])


def _width(bench: Bench) -> int:
    """Channels of the tokens."""
    shape = replace(bench, what="flops", at="block", levels=1, pixels=None, frames=None)
    model = subject(shape, "meta")
    if model.latents is not None:
        return model.sample.shape[1]
    config: Any = model.model.config
    return config["num_attention_heads"] * config["attention_head_dim"]


def _measure(curves: Sequence[Curve], x: Tensor, grid: tuple[int, ...], rounds: int) -> None:
    tokens, plans = x.shape[1], {}
    for curve in curves:
        plans[curve.name] = curve.prepare(x, grid)
        curve.peak_bytes[tokens], curve.seconds[tokens] = peak_bytes(plans[curve.name], x.device.type), []
    for turn in range(rounds):
        for curve in random.Random(turn).sample(curves, len(curves)):
            curve.seconds[tokens].append(seconds_of(plans[curve.name], x.device)["wall"])


def _planner(strategy: MergeStrategy, role: str) -> Prepare:
    def prepare(x: Tensor, grid: tuple[int, ...]) -> Callable[[], object]:
        ctx = toy_context(grid, role, step=10)  # halfway, where a linear schedule of the ratio is at its mean
        noise, still = (each.to(x.device) for each in (ctx.noise, ctx.still))
        ctx = replace(ctx, noise=noise, still=still, signals=toy_signals(strategy, x))

        @torch.no_grad()
        def make_plan() -> object:
            plan = strategy.plan(x, ctx)
            return plan if plan is None else as_ready(plan, len(x))

        return make_plan

    return prepare
