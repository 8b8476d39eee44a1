"""What merging costs before and beside the merging itself: imports, entering and leaving, and hooks in every step."""

import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mergekit_diff import LayerContext, MergePlan, MergeStrategy, merging
from mergekit_diff.sites import find_sites

from .config import Bench
from .filling import Subject
from .results import Interval, interval, paired
from .subject import subject
from .timing import take_turns
from .transformer_sizes import TRANSFORMERS
from .transformer_subject import transformer_subject
from .variants import Variant, variants

NARROW = {"num_attention_heads": 1, "attention_head_dim": 8, "axes_dims_rope": (4, 2, 2), "joint_attention_dim": 8}
ROLES = ("self_attention", "cross_attention", "feed_forward")
IMPORTS = """
import time, torch, einops
start = time.perf_counter()
from mergekit_diff import merging, names
merge = time.perf_counter() - start
names("strategy")
print(merge, time.perf_counter() - start)
"""
"""Prints seconds to ``merging`` and to all strategies, after torch; einops is counted to the dependencies."""
Rounds = dict[str, list[float]]


@dataclass(frozen=True)
class Small:
    """A small cost.

    Args:
        measure: what is measured.
        unit: of its value.
        limit: what it should be at most; None if it is told for comparison.
    """

    measure: str
    unit: str
    limit: float | None = None


COSTS = {
    "import": Small("from mergekit_diff import merging, beyond torch", "ms", 100.0),
    "strategies": Small("the same and all strategies", "ms"),
    "session": Small("enter and leave merging, 60 blocks", "ms", 50.0),
    "hooks": Small("step with hooks that merge nothing / step without", "x"),
    "pairs": Small("step with one merged pair a site and kept plans / step without", "x", 1.03),
}


@dataclass(frozen=True)
class OnePair(MergeStrategy):
    """Merges the second token into the first, so that hooks do all that they ever do, with as little as possible saved."""

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan:
        """The same for any (B, N, C) tokens."""
        target = torch.arange(x.shape[1], device=x.device).repeat(len(x), 1)
        target[:, 1] = 0
        return MergePlan.from_target(target, x.shape[1] - 1)


@dataclass(frozen=True)
class Nothing(MergeStrategy):
    """Merges nothing."""

    def plan(self, x: Tensor, ctx: LayerContext) -> None:
        """None, for any tokens."""


def startup(bench: Bench, advance: Callable[[], None] = lambda: None) -> tuple[list[dict[str, Any]], Rounds]:
    """A row for each small cost, and its value in every round.

    Args:
        bench: rounds, batch, device and dtype; steps are those of its size at its pixels.
        advance: called after every part.
    """
    rounds = _import(bench.rounds)
    advance()
    rounds["session"] = _enter_and_leave(sixty_blocks(bench), bench.rounds)
    advance()
    base, *hooked = _steps(bench)
    advance()
    rows = [_row(key, interval(np.array(values))) for key, values in rounds.items()]
    rows += [_row(key, paired(np.array(own), np.array(base))) for key, own in zip(("hooks", "pairs"), hooked, strict=True)]
    return rows, rounds | {"step": base, "hooks": hooked[0], "pairs": hooked[1]}


def sixty_blocks(bench: Bench) -> Subject:
    """Qwen-Image, which has 60 blocks, so narrow that it takes no time to make."""
    size = TRANSFORMERS["qwen-image"]
    narrow = replace(size, config={**NARROW, "num_layers": 60}, words=4)
    shape = Bench(size="qwen-image", at="step", pixels=64, batch=1, device=bench.device)
    return transformer_subject(narrow, shape, "cpu")


def _row(key: str, value: Interval) -> dict[str, Any]:
    cost = COSTS[key]
    return {"cost": key, "measure": cost.measure, "unit": cost.unit, "limit": cost.limit, "value": value}


def _import(rounds: int) -> Rounds:
    """Milliseconds in a process of its own each, after one that fills the caches of files."""
    command = [sys.executable, "-c", IMPORTS]
    outputs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(1 + rounds)]
    merge, strategies = zip(*([1000 * float(word) for word in output.split()] for output in outputs[1:]), strict=True)
    return {"import": list(merge), "strategies": list(strategies)}


def _enter_and_leave(on: Subject, rounds: int) -> list[float]:
    """Milliseconds."""
    assert len(find_sites(on.model)) == 60
    times = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no token was merged")
        for _ in range(1 + rounds):
            start = time.perf_counter()
            with merging(on.model, "retom"):
                pass
            times.append(1000 * (time.perf_counter() - start))
    return times[1:]


def _steps(bench: Bench) -> list[list[float]]:
    """Seconds of steps that keep their plan: without merging, with hooks that merge nothing, and with one pair a site."""
    on = subject(replace(bench, what="time", at="step"))
    every = [variants(replace(bench, what="time"), {}, None)[0]]
    every += [Variant(type(each).__name__, _merged(each), keeps=True) for each in (Nothing(), OnePair())]
    times = take_turns(on, every, 1 + bench.rounds, ROLES, parts=False)
    return [[each["wall"] for each in times[one.name]["kept" if one.keeps else "fresh"][1:]] for one in every]


def _merged(strategy: MergeStrategy) -> Callable[[nn.Module], Any]:
    @contextmanager
    def attach(model: nn.Module) -> Iterator[Callable[[], tuple[int, int]]]:
        possible = [role for role in ROLES if any(site.offers(role) for site in find_sites(model))]
        with merging(model, strategy, roles=possible, refresh=2) as session:
            yield lambda: session.report().tokens

    return attach
