"""Times of strategies on one block of Stable Diffusion 1.5's size, beside the base, the tomesd package and the floor."""

import csv
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mergekit_diff import MergeStrategy

from .rehearsal import toy_context

GRID, WIDTH, HEADS, BATCH, TEXT = (64, 64), 320, 8, 2, (77, 768)
RATIO = 0.5
TOME, FLOOR = "tomesd package", "floor"
Move = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Variant:
    """A way to run the block.

    Args:
        name: what the table calls it.
        plan: called with the block's input; returns merge and unmerge.
        role: "self_attention", or "key_value", which needs no unmerge.
    """

    name: str
    plan: Callable[[Tensor], tuple[Move, Move]] | None = None
    role: str = "self_attention"


@dataclass
class Clock:
    """Hooks that merge in one block, and the seconds that each part took.

    Args:
        block: with ``attn1``.
        variant: what to do there.
    """

    block: nn.Module
    variant: Variant
    spent: dict[str, float] = field(default_factory=dict)
    _moves: tuple[Move, Move] | None = None
    _since: float = 0.0

    def run(self, x: Tensor, text: Tensor) -> dict[str, float]:
        """One call of the block; seconds for block, layer, plan and merge."""
        self.spent = {"plan": 0.0, "merge": 0.0, "attention": 0.0}
        attention: Any = self.block.attn1
        handles = [
            self.block.register_forward_pre_hook(self._before_block),
            attention.register_forward_pre_hook(self._before, with_kwargs=True),
            attention.register_forward_hook(self._after),
        ]
        start = time.perf_counter()
        try:
            self.block(x, encoder_hidden_states=text)
        finally:
            for handle in handles:
                handle.remove()
        block = time.perf_counter() - start
        layer = sum(self.spent.values())
        return {"block": block, "layer": layer, "plan": self.spent["plan"], "merge": self.spent["merge"]}

    def _before_block(self, block: nn.Module, args: tuple[Any, ...]) -> None:
        start = time.perf_counter()
        self._moves = self.variant.plan(args[0]) if self.variant.plan else None
        self.spent["plan"] = time.perf_counter() - start

    def _before(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        start = time.perf_counter()
        if self._moves is not None:
            merged = self._moves[0](args[0])
            if self.variant.role == "key_value":
                kwargs = {**kwargs, "encoder_hidden_states": merged}
            else:
                args = (merged, *args[1:])
        self._since = time.perf_counter()
        self.spent["merge"] += self._since - start
        return args, kwargs

    def _after(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        start = time.perf_counter()
        self.spent["attention"] = start - self._since
        if self._moves is not None and self.variant.role != "key_value":
            output = self._moves[1](output)
            self.spent["merge"] += time.perf_counter() - start
        return output


def block_table(strategies: Mapping[str, tuple[MergeStrategy, str]], repetitions: int = 5) -> list[dict[str, Any]]:
    """A line a variant, medians in milliseconds: whole block, attention layer, plan, merge + unmerge, block time to base.

    Variants take turns, each round beginning with another one, so that a slow moment of the machine hits all alike. Every
    call makes a new plan.

    Args:
        strategies: name to strategy and role.
        repetitions: rounds; the first one more is not counted.
    """
    block, x, text = _block()
    clocks = [Clock(block, variant) for variant in _variants(strategies)]
    times: dict[str, list[dict[str, float]]] = {clock.variant.name: [] for clock in clocks}
    with torch.no_grad():
        for turn in range(repetitions + 1):
            first = turn % len(clocks)
            for clock in clocks[first:] + clocks[:first]:
                seconds = clock.run(x, text)
                if turn:
                    times[clock.variant.name].append(seconds)
    return _lines(times)


def read_table(path: Path) -> list[dict[str, Any]]:
    """The lines of speed.csv."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _lines(times: Mapping[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    medians = {name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in times.items()}
    base = medians["base"]["block"]
    return [
        {"variant": name, **{key: round(1000 * value, 3) for key, value in line.items()}, "ratio": round(line["block"] / base, 4)}
        for name, line in medians.items()
    ]


def _block() -> tuple[nn.Module, Tensor, Tensor]:
    from diffusers.models.attention import BasicTransformerBlock

    torch.manual_seed(0)
    block = BasicTransformerBlock(WIDTH, HEADS, WIDTH // HEADS, cross_attention_dim=TEXT[1]).eval()
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, GRID[0] * GRID[1], WIDTH, generator=draw)
    return block, x, torch.randn(BATCH, *TEXT, generator=draw)


def _variants(strategies: Mapping[str, tuple[MergeStrategy, str]]) -> list[Variant]:
    ours = [Variant(name, _planner(strategy, role), role) for name, (strategy, role) in strategies.items()]
    return [Variant("base"), *_installed_tomesd(), *ours, Variant(FLOOR, _slice)]


def _planner(strategy: MergeStrategy, role: str) -> Callable[[Tensor], tuple[Move, Move]]:
    ctx = toy_context(GRID, role, step=10)  # half-way, where a falling ratio is at its mean

    def plan(x: Tensor) -> tuple[Move, Move]:
        made = strategy.plan(x, ctx)
        if made is None:
            return _same, _same
        made = made.prepared(len(x))
        return made.merge, made.unmerge

    return plan


def _installed_tomesd() -> list[Variant]:
    try:
        from tomesd import merge
    except ImportError:
        return []
    draw = torch.Generator().manual_seed(0)

    def plan(x: Tensor) -> tuple[Move, Move]:
        return merge.bipartite_soft_matching_random2d(x, GRID[1], GRID[0], 2, 2, int(x.shape[1] * RATIO), generator=draw)

    return [Variant(TOME, plan)]


def _slice(x: Tensor) -> tuple[Move, Move]:
    """The floor: tokens that cost nothing to choose, and none to put back but the room for them."""
    kept = x.shape[1] - int(x.shape[1] * RATIO)
    return lambda tokens: tokens[:, :kept], lambda tokens: nn.functional.pad(tokens, (0, 0, 0, x.shape[1] - kept))


def _same(x: Tensor) -> Tensor:
    return x
