"""The time that planning and moving tokens take in a transformer block, as shares of the block's own time without merging."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from mergekit_diff import MergeStrategy, merging

from ..provenance import processor
from .config import Bench
from .subject import subject
from .timing import Seconds, take_turns
from .variants import Variant, all_roles, variants

ROUNDS = 5


@dataclass(frozen=True)
class Way:
    """A way to merge in the block.

    Args:
        strategy: makes the plans.
        roles: what runs on merged tokens.
        share: as in ``merging``.
        proportional: as in ``merging``.
    """

    strategy: MergeStrategy
    roles: tuple[str, ...]
    share: tuple[str, ...] = ()
    proportional: bool | None = None


@dataclass(frozen=True)
class Overhead:
    """What merging adds to a block, as shares of the block's time without merging.

    Args:
        plan: the time to plan once, as at the first step of an image: there is no last plan from which to take anything.
        move: the time to merge and unmerge, in all roles.
    """

    plan: float
    move: float


def block_times(
    ways: Mapping[str, Way], block: Bench, device: str, dtype: str, peers: bool = False, rounds: int = ROUNDS
) -> Mapping[str, Sequence[Seconds]]:
    """Time every way in turns with the block without merging, which is called "base".

    Args:
        ways: by name; equal ones are timed once.
        block: in which they merge.
        device: where, such as "cpu".
        dtype: of tokens and weights, such as "float32".
        peers: whether the floors of these roles and other installed packages are timed too, under their own names.
        rounds: how many, after one that is not counted.

    Returns:
        By name, the seconds of every round; the base comes first, and peers before ways.
    """
    bench = replace(block, dtype=dtype)
    timed = subject(bench, device)
    different = {repr(way): way for way in ways.values()}
    entries = {key: (way.strategy, way.roles) for key, way in different.items()}
    others = [one for one in variants(bench, entries, timed.latents) if one.name not in entries]
    every = [*(others if peers else others[:1]), *(Variant(key, _merging(way)) for key, way in different.items())]
    times = {
        name: moments["fresh"][1:] for name, moments in take_turns(timed, every, 1 + rounds, all_roles(bench, entries)).items()
    }
    return {name: found for name, found in times.items() if name not in different} | {
        name: times[repr(way)] for name, way in ways.items()
    }


def overhead(times: Sequence[Seconds], base: Sequence[Seconds]) -> Overhead:
    """Medians of the ratios within a round, from the :func:`block_times` of a way and of the base."""
    rounds = list(zip(times, base, strict=True))
    plan = [own["plan"] / other["wall"] for own, other in rounds]
    move = [(own["merge"] + own["unmerge"]) / other["wall"] for own, other in rounds]
    return Overhead(float(np.median(plan)), float(np.median(move)))


def machine(device: str) -> str:
    """What a time was measured on, in a few words."""
    name = torch.cuda.get_device_name() if device == "cuda" else processor()
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _merging(way: Way) -> Callable[[nn.Module], AbstractContextManager[Callable[[], tuple[int, int]]]]:
    @contextmanager
    def attach(model: nn.Module) -> Iterator[Callable[[], tuple[int, int]]]:
        options = {"roles": way.roles, "share": way.share, "proportional": way.proportional}
        with merging(model, way.strategy, refresh=1, **options) as session:
            yield lambda: session.report().tokens

    return attach
