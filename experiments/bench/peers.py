"""What strategies are compared with, in the same hooks: the floor, and other packages with their own functions."""

import importlib.util
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mergekit_diff.hooks import SiteHooks
from mergekit_diff.layouts import Layouts
from mergekit_diff.plan import Plan
from mergekit_diff.rows import inside
from mergekit_diff.sites import Site, find_sites

Move = Callable[[Tensor], Tensor]
TOMESD = "tomesd package"
STRIDE = 2  # of tomesd's destinations, its default


@dataclass(frozen=True)
class Moves:
    """A plan for a site's hooks, made of functions.

    Args:
        num_tokens: N.
        num_groups: M.
        merge: (B, N, C) to (B, M, C).
        unmerge: (B, M, C) to (B, N, C).
        rows: what ``select`` does; None if it is not offered.
    """

    num_tokens: int
    num_groups: int
    merge: Move
    unmerge: Move

    rows: Move | None = None

    def select(self, x: Tensor, /) -> Tensor:
        """The rows that stay, such as positions: (B, N, C) to (B, M, C)."""
        if self.rows is None:
            raise NotImplementedError("packages are measured in U-Nets, whose hooks select nothing")
        return self.rows(x)

    @property
    def sizes(self) -> Tensor:
        """Not offered: no peer weighs its keys by size."""
        raise NotImplementedError("peers are measured without proportional attention")


Choose = Callable[[Tensor], Moves]


@contextmanager
def hooked(
    model: nn.Module, roles: Sequence[str], levels: int, choose: Choose, keep: bool = False
) -> Iterator[Callable[[], tuple[int, int]]]:
    """Merge by functions, without a session; yields a function that returns tokens before and after, over all sites and roles.

    Args:
        model: as in ``merging``.
        roles: as in ``merging``.
        levels: as in ``merging``.
        choose: makes the functions of a site from its (B, N, C) tokens.
        keep: whether a site's functions of the first call serve all later calls too.
    """
    sites = [site for site in find_sites(model) if site.level < levels]
    layouts, counted, kept = Layouts(sites), list[tuple[int, int]](), dict[str, Moves]()
    shared, own = any(role != "key_value" for role in roles), "key_value" in roles

    def plans(x: Tensor, site: Site) -> tuple[Plan | None, Plan | None]:
        moves = kept.get(site.name) or choose(inside(x, layouts.of(site, x)))
        if keep:
            kept[site.name] = moves
        merged = sum(site.offers(role) for role in roles)
        counted.append((merged * moves.num_tokens, merged * moves.num_groups))
        return moves if shared else None, moves if own else None

    handles: list[RemovableHandle] = layouts.attach([])
    for site in sites:
        handles += SiteHooks(site, tuple(roles), partial(plans, site=site), partial(layouts.of, site)).attach()
    try:
        yield lambda: (sum(before for before, _ in counted), sum(after for _, after in counted))
    finally:
        for handle in handles:
            handle.remove()


def floor(ratio: float) -> Choose:
    """The fastest a strategy could be: a slice of the tokens, which costs nothing to choose, padded to unmerge.

    Args:
        ratio: share of the tokens that is dropped.
    """

    def choose(x: Tensor) -> Moves:
        tokens = x.shape[1]
        kept = tokens - int(tokens * ratio)

        def first(x: Tensor) -> Tensor:
            return x[:, :kept]

        return Moves(tokens, kept, first, lambda y: nn.functional.pad(y, (0, 0, 0, tokens - kept)), first)

    return choose


def has_tomesd() -> bool:
    """Whether the package tomesd is installed."""
    return importlib.util.find_spec("tomesd") is not None


def tomesd(ratio: float, latents: Sequence[int], randomize: bool = True) -> Choose:
    """Matching, merging and unmerging of the package tomesd, called as its patch calls them.

    Args:
        ratio: share of the tokens that is merged away.
        latents: height and width of the model's input, from which it derives a site's grid.
        randomize: its ``use_rand``; tomesd itself disables it for an odd batch.
    """
    from tomesd import merge

    draw = torch.Generator().manual_seed(0)

    def choose(x: Tensor) -> Moves:
        tokens, shrunk = x.shape[1], math.ceil(math.sqrt(math.prod(latents) // x.shape[1]))
        height, width = (math.ceil(side / shrunk) for side in latents)
        fixed = not randomize or len(x) % 2 == 1
        moves = merge.bipartite_soft_matching_random2d(x, width, height, STRIDE, STRIDE, int(tokens * ratio), fixed, draw)
        sources = tokens - (height // STRIDE) * (width // STRIDE)
        return Moves(tokens, tokens - min(int(tokens * ratio), sources), *moves)

    return choose
