"""A partition worked out for one batch size: derived once, applied many times."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class ReadyPlan:
    """A :class:`mergekit_diff.MergePlan` worked out for one batch size, made by its ``ready``; a plan itself.

    All indices are counted through the batch, since moving whole rows of a (B * N, C) tensor is several times faster than
    ``gather`` and ``scatter`` with an index for every channel. Two ready plans are equal if they are the same object.

    Args:
        batch: B.
        num_tokens: N.
        num_groups: M.
        order: (B * N,) the tokens sorted by group.
        offsets: (B * M,) where each group begins in ``order``.
        weights: (B * N,) the tokens' weights in their group's mean, in the order of ``order``; None is the plain mean.
        assign: (B * N,) the group of every token.
        rep: (B * M,) the token that represents every group.
        reduce: makes (B, M, C) from (B, N, C) tokens and this plan; a :class:`mergekit_diff.Reduction`.
        keep: as in the plan.
        roles: as in the plan.
    """

    batch: int
    num_tokens: int
    num_groups: int
    order: Tensor
    offsets: Tensor
    weights: Tensor | None
    assign: Tensor
    rep: Tensor
    reduce: "Callable[[Tensor, ReadyPlan], Tensor]"
    keep: float = 0.0
    roles: tuple[str, ...] | None = None

    def merge(self, x: Tensor, /) -> Tensor:
        """Every group reduced to one token: (B, N, C) to (B, M, C)."""
        self._check(x, self.num_tokens)
        return self.reduce(x, self)

    def unmerge(self, y: Tensor, /) -> Tensor:
        """Copy every group's row to each of its tokens: (B, M, C) to (B, N, C)."""
        self._check(y, self.num_groups)
        return _rows(y, self.assign, self.num_tokens)

    def select(self, x: Tensor, /) -> Tensor:
        """The rows of the representatives, never an average: (B, N, C) to (B, M, C)."""
        self._check(x, self.num_tokens)
        return _rows(x, self.rep, self.num_groups)

    @property
    def sizes(self) -> Tensor:
        """(B, M) float32, the number of tokens in every group."""
        ends = F.pad(self.offsets[1:], (0, 1), value=self.batch * self.num_tokens)
        return (ends - self.offsets).float().view(self.batch, self.num_groups)

    def blend(self, new: Tensor, last: Tensor) -> Tensor:
        """Outputs (B, N, C) with the share ``keep`` of the last ones, for tokens that share a group; others are new alone."""
        shared = self.sizes.flatten().index_select(0, self.assign).view(self.batch, self.num_tokens, 1) > 1
        return torch.where(shared, new.lerp(last.to(new.dtype), self.keep), new)

    def mean(self, x: Tensor) -> Tensor:
        """Every group's mean, by the plan's weights if it has any: (B, N, C) to (B, M, C)."""
        # embedding_bag reduces runs of rows in one pass, whatever the sizes of the groups. index_add_ would need a zeroed output
        # and a division, is nondeterministic on CUDA, and was no faster (2 x 4,096 x 320, one thread: 3.5 against 3.8 ms).
        wide = x.dtype == torch.float16 and x.device.type == "cpu"  # torch 2.13 stores the sum, which may overflow, to divide it
        flat = (x.float() if wide else x).reshape(-1, x.shape[-1])
        weights = None if self.weights is None else self.weights.to(flat.dtype)
        mode = "mean" if weights is None else "sum"
        rows = F.embedding_bag(self.order, flat, self.offsets, mode=mode, per_sample_weights=weights)
        return rows.to(x.dtype).view(self.batch, self.num_groups, x.shape[-1])

    def largest(self, x: Tensor) -> Tensor:
        """The largest value of every group, channel by channel: (B, N, C) to (B, M, C)."""
        rows = F.embedding_bag(self.order, x.reshape(-1, x.shape[-1]), self.offsets, mode="max")
        return rows.view(self.batch, self.num_groups, x.shape[-1])

    def _check(self, x: Tensor, tokens: int) -> None:
        if x.ndim != 3 or x.shape[:2] != (self.batch, tokens):
            raise ValueError(f"expected tokens ({self.batch}, {tokens}, C) for this plan, got {tuple(x.shape)}")


def through_batch(index: Tensor, rows: int) -> Tensor:
    """Indices into each row's ``rows`` tokens, counted through the batch: (B, n) to (B * n,)."""
    return (index + rows * torch.arange(len(index), device=index.device)[:, None]).flatten()


def _rows(x: Tensor, flat_index: Tensor, count: int) -> Tensor:
    return x.reshape(-1, x.shape[-1]).index_select(0, flat_index).view(len(x), count, x.shape[-1])
