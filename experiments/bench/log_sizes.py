"""What log sizes of merged keys cost in one attention, by the way in which they reach its scores, and the kernel that then runs.

Proportional attention (Bolya et al. 2023, arXiv 2210.09461) adds the logarithm of a group's size to the scores of its key. A mask
of such numbers can cost the fastest kernel of a device; the other ways give the same output without one.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile

from mergekit_diff.sites import find_sites

from ..models import resolve_device
from .config import Bench
from .results import interval, paired
from .subject import subject
from .timing import seconds_of

PADDING = 8  # channels that a head is widened by, since kernels want multiples of 8
ROLES = ("self_attention", "key_value")
Rounds = dict[str, list[float]]


@dataclass(frozen=True)
class Keys:
    """An attention whose keys are merged, all groups of one size.

    Args:
        query: (B, H, L, D).
        key: (B, H, M, D).
        value: (B, H, M, D).
        size: tokens in a group; it need not be a whole number.
        beside: how many of the keys, the first, are not merged.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    size: float
    beside: int

    @property
    def logarithms(self) -> Tensor:
        """(B, M) numbers to add to the scores."""
        sizes = self.key.new_full(self.key.shape[::2], self.size)
        sizes[:, : self.beside] = 1
        return sizes.log()


def none(keys: Keys) -> Tensor:
    """Without log sizes. It is the same as with them if all keys are merged, since one number for all changes no weight."""
    return F.scaled_dot_product_attention(keys.query, keys.key, keys.value)


def mask(keys: Keys) -> Tensor:
    """Added as a mask (B, 1, 1, M) of numbers, as :mod:`mergekit_diff.scores` does."""
    return F.scaled_dot_product_attention(keys.query, keys.key, keys.value, attn_mask=keys.logarithms[:, None, None])


def channel(keys: Keys) -> Tensor:
    """As one more channel of the heads: 1 in queries, log sizes in keys, both scaled; values are padded with zeros."""
    width = keys.query.shape[-1]
    query, key, value = (F.pad(x, (0, PADDING)) for x in (keys.query, keys.key, keys.value))
    query[..., width] = width**0.5
    key[..., width] = keys.logarithms[:, None]
    return F.scaled_dot_product_attention(query, key, value, scale=width**-0.5)[..., :width]


def joined(keys: Keys) -> Tensor:
    """One attention to the merged keys and one to the others, joined by the logarithms of their sums; for one size only."""
    if not keys.beside:
        return none(keys)
    flash = FLASH[keys.query.device.type]
    other, of_others = flash(keys.query, keys.key[:, :, : keys.beside], keys.value[:, :, : keys.beside])[:2]
    merged, of_merged = flash(keys.query, keys.key[:, :, keys.beside :], keys.value[:, :, keys.beside :])[:2]
    weight = (of_merged - of_others + keys.logarithms[0, -1]).sigmoid()[..., None].to(other.dtype)
    return other.lerp(merged, weight)


def flex(keys: Keys) -> Tensor:
    """Added inside a compiled flex attention (Dong et al. 2024, arXiv 2412.05496)."""
    logarithms = keys.logarithms

    def sized(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score + logarithms[batch, key]

    return _flex()(keys.query, keys.key, keys.value, score_mod=sized)


WAYS: Mapping[str, Callable[[Keys], Tensor]] = {each.__name__: each for each in (none, mask, channel, joined, flex)}
FLASH: Mapping[str, Callable[..., Any]] = {
    "cpu": torch.ops.aten._scaled_dot_product_flash_attention_for_cpu,
    "cuda": torch.ops.aten._scaled_dot_product_flash_attention,
}
"""The kernels that also return the logarithms of the sums."""


@torch.no_grad()
def log_sizes(bench: Bench, advance: Callable[[], None] = lambda: None) -> tuple[list[dict[str, Any]], Rounds]:
    """A row for every role and way, and seconds of all rounds; each round in another order.

    Args:
        bench: size, pixels, frames, batch, ratio, rounds, device and dtype; the attention is the first that merges.
        advance: called after every round.
    """
    queries, beside = attention_of(bench)
    works = {f"{role}, {way}": (WAYS[way], _keys(queries, beside, role, bench.ratio)) for role in ROLES for way in WAYS}
    rounds: Rounds = {name: [] for name in works}
    kernels = {name: kernel(lambda way=way, keys=keys: way(keys)) for name, (way, keys) in works.items()}
    for turn in range(bench.rounds):
        for name in random.Random(turn).sample(list(works), len(works)):
            way, keys = works[name]
            rounds[name].append(seconds_of(lambda way=way, keys=keys: way(keys), queries.device)["wall"])
        advance()
    return [_row(role, way, kernels[f"{role}, {way}"], rounds) for role in ROLES for way in WAYS], rounds


def attention_of(bench: Bench) -> tuple[Tensor, int]:
    """Random queries (B, H, L, D) of the shape of the first attention that merges, and how many of its tokens do not."""
    model = subject(bench, "meta")
    site = next(iter(find_sites(model.model)))
    with Seen() as seen:
        model.call()
    shape, device = seen.shapes[0], resolve_device(bench.device)
    draw = torch.Generator().manual_seed(0)
    words = model.others["encoder_hidden_states"].shape[1] if site.joint else 0
    return torch.randn(shape, generator=draw).to(device, getattr(torch, bench.dtype)), words


@dataclass
class Seen(TorchFunctionMode):
    """While it is entered, notes the shapes of the queries of ``scaled_dot_product_attention``."""

    shapes: list[torch.Size] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Note and go on."""
        if func is F.scaled_dot_product_attention:
            self.shapes.append((args[0] if args else kwargs["query"]).shape)
        return func(*args, **(kwargs or {}))


def kernel(work: Callable[[], object]) -> str:
    """The kernel of attention that runs, without the prefix that all have; "compiled" if it is none of torch's own."""
    work()  # compiles
    with profile(activities=[ProfilerActivity.CPU]) as run:
        work()
    names = [event.name.removeprefix("aten::_scaled_dot_product_") for event in run.events() or ()]
    return next((name for name in names if "attention" in name and "::" not in name), "compiled")


def _keys(queries: Tensor, beside: int, role: str, ratio: float) -> Keys:
    grid = queries.shape[2] - beside
    kept = beside + round(grid * (1 - ratio))
    key = queries[:, :, :kept].contiguous()
    size = grid / (kept - beside)
    return Keys(key.clone() if role == "self_attention" else queries, key, key.clone(), size, beside)


def _row(role: str, way: str, kernel: str, rounds: Rounds) -> dict[str, Any]:
    own, without = (np.array(rounds[f"{role}, {name}"]) for name in (way, "none"))
    return {"role": role, "way": way, "kernel": kernel, "ms": interval(1000 * own), "ratio": paired(own, without)}


def _flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    if not _compiled:
        _compiled.append(torch.compile(flex_attention, dynamic=False))
    return _compiled[0]


_compiled: list[Callable[..., Any]] = []
