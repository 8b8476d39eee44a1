"""Times variants in turns, each round in another order, so that a slow moment of the machine affects all alike."""

import random
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from torch.utils.benchmark.utils.timer import timer  # waits for the device

from .filling import TIMESTEP, Subject
from .instruments import Operations, Parts
from .memory import peak_bytes
from .variants import Variant

Seconds = dict[str, float]
Times = dict[str, dict[str, list[Seconds]]]
"""For every variant, for its "fresh" and "kept" calls, seconds of every round: wall, cpu, plan, merge, attention, unmerge."""
PARTS = ("plan", "merge", "attention", "unmerge")


@dataclass
class Counts:
    """Everything that does not change from call to call.

    Args:
        flops: floating-point operations of the "fresh" call, which makes the plan, and of the "kept" one, which reuses it.
        peak_bytes: the most that was alive beyond weights and inputs; None on the meta device.
        tokens: of all sites and roles, before and after merging.
    """

    flops: dict[str, int] = field(default_factory=dict)
    peak_bytes: int | None = None
    tokens: tuple[int, int] = (0, 0)


def count(subject: Subject, variant: Variant) -> Counts:
    """Operations, memory and tokens of a variant, from one run of each of its calls; on the meta device nothing is computed."""
    counts, peaks, device = Counts(), [], subject.sample.device.type
    with _running(subject.model, variant) as tokens:
        for moment, timestep in _moments(variant):
            counter = Operations(subject.model)
            with counter.counting():
                if device == "meta":  # where attention holds all weights at once, unlike on any real device
                    subject.call(timestep)
                else:
                    peaks.append(peak_bytes(lambda timestep=timestep: subject.call(timestep), device))
            counts.flops[moment] = counter.total
            counts.tokens = counts.tokens if moment == "kept" else tokens()
    return replace(counts, peak_bytes=max(peaks, default=None))


def take_turns(
    subject: Subject,
    variants: Sequence[Variant],
    rounds: int,
    roles: Sequence[str],
    advance: Callable[[], None] = lambda: None,
    parts: bool = True,
) -> Times:
    """Seconds of every variant in every round. Each must have run before, in ``count``: first calls are slower.

    On a GPU the parts are timed in separate rounds, since they wait for the device in between.

    Args:
        subject: what is timed.
        variants: every round shuffles them, the same way at every call.
        rounds: how many.
        roles: whose submodules are timed as parts.
        advance: called after every turn.
        parts: whether parts are timed at all; their stopwatches are hooks too.
    """
    times: Times = {
        variant.name: {moment: [{} for _ in range(rounds)] for moment, _ in _moments(variant)} for variant in variants
    }
    for wanted in _passes(subject) if parts else [("whole",)]:
        for turn in range(rounds):
            for variant in random.Random(turn).sample(variants, len(variants)):
                for moment, seconds in _turn(subject, variant, roles, wanted).items():
                    times[variant.name][moment][turn] |= seconds
                advance()
    return times


def turns(subject: Subject, variants: Sequence[Variant], rounds: int) -> int:
    """How often ``take_turns`` will call ``advance``."""
    return len(variants) * rounds * len(_passes(subject))


def _passes(subject: Subject) -> list[tuple[str, ...]]:
    return [("whole",), ("parts",)] if subject.sample.device.type == "cuda" else [("whole", "parts")]


def seconds_of(call: Callable[[], object], device: torch.device) -> Seconds:
    """Wall and CPU time of one call, by CUDA events on a GPU."""
    if device.type == "cuda":
        return _by_events(call)
    start, cpu = timer(), time.process_time()
    call()
    return {"wall": timer() - start, "cpu": time.process_time() - cpu}


def _turn(subject: Subject, variant: Variant, roles: Sequence[str], wanted: Sequence[str]) -> dict[str, Seconds]:
    seconds: dict[str, Seconds] = {}
    with _running(subject.model, variant):
        for moment, timestep in _moments(variant):
            parts = Parts(subject.model, roles)
            handles = parts.attach() if "parts" in wanted else []
            try:
                whole = seconds_of(lambda timestep=timestep: subject.call(timestep), subject.sample.device)
            finally:
                for handle in handles:
                    handle.remove()
            seconds[moment] = {part: parts.spent[part] for part in PARTS} if "parts" in wanted else {}
            seconds[moment] |= whole if "whole" in wanted else {}
    return seconds


def _moments(variant: Variant) -> Iterator[tuple[str, float]]:
    yield "fresh", TIMESTEP
    if variant.keeps:
        yield "kept", TIMESTEP - 1  # the next step of the same image


@contextmanager
def _running(model: nn.Module, variant: Variant) -> Iterator[Callable[[], tuple[int, int]]]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no token was merged")  # the table shows it
        with variant.attach(model) as tokens:
            yield tokens


def _by_events(call: Callable[[], object]) -> Seconds:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    cpu = time.process_time()
    start.record()
    call()
    end.record()
    cpu = time.process_time() - cpu
    torch.cuda.synchronize()
    return {"wall": start.elapsed_time(end) / 1000, "cpu": cpu}
