"""Which token goes to which group, and back: the decision as a small immutable value that is then applied."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class MergePlan:
    """A partition of N tokens into M groups, each with a token that stands for it.

    Laws: ``assign[rep] == arange(M)``; ``merge(unmerge(y))`` is ``y``; the mean plan keeps the sum of the tokens, weighted by
    group size. All tensors share B; B may be 1, and the plan then serves every row of a batch.

    Args:
        assign: (B, N) int64, the group of every token, in [0, M).
        rep: (B, M) int64, the token that stands for every group.
        weight: (B, N) share of every token in its group, summing to 1 in each group; None is the plain mean.
        proportional: whether a merged key counts as often in self-attention as it has tokens, by the logarithm of the group's
            size added to its scores: proportional attention, Bolya et al. 2023, arXiv 2210.09461.

    Raises:
        ValueError: the tensors' shapes do not fit together.
    """

    assign: Tensor
    rep: Tensor
    weight: Tensor | None = None
    proportional: bool = False
    _derived: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        shapes = [tuple(t.shape) for t in (self.assign, self.rep, self.weight) if t is not None]
        if any(len(s) != 2 or s[0] != shapes[0][0] for s in shapes) or (self.weight is not None and shapes[2] != shapes[0]):
            raise ValueError(f"a MergePlan takes assign (B, N), rep (B, M) and weight (B, N) or None; given shapes {shapes}")

    @classmethod
    def from_target(cls, target: Tensor, num_groups: int, weight: Tensor | None = None) -> "MergePlan":
        """The plan in which every token joins the token that ``target`` names; groups stand in the order of their tokens.

        Args:
            target: (B, N) int64, for every token the token that stands for it; itself if it is kept.
            num_groups: M, the number of kept tokens, the same in every row (given, so that no device is waited for).
            weight: as in the class.
        """
        batch, n = target.shape
        tokens = torch.arange(n, device=target.device).expand(batch, n)
        kept = target == tokens
        group = kept.cumsum(1) - 1
        slot = torch.where(kept, group, num_groups)
        rep = target.new_empty(batch, num_groups + 1).scatter_(1, slot, tokens)[:, :num_groups]
        return cls(group.gather(1, target), rep, weight)

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.assign.shape[1]

    @property
    def num_groups(self) -> int:
        """M."""
        return self.rep.shape[1]

    @property
    def granted(self) -> float:
        """The merge ratio of this plan, 1 - M / N."""
        return 1 - self.num_groups / self.num_tokens

    def merge(self, x: Tensor) -> Tensor:
        """Every group's weighted mean: (B, N, C) to (B, M, C)."""
        plan = self._for(x, self.num_tokens)
        order, offsets, shares = plan._order
        if shares is not None:
            shares = shares.to(x.dtype)
        mode = "mean" if shares is None else "sum"
        rows = F.embedding_bag(order, x.reshape(-1, x.shape[-1]), offsets, mode=mode, per_sample_weights=shares)
        return rows.view(len(x), self.num_groups, x.shape[-1])

    def unmerge(self, y: Tensor) -> Tensor:
        """Every group's row copied to each of its tokens: (B, M, C) to (B, N, C)."""
        return _rows(y, self._for(y, self.num_groups)._flat_assign, self.num_tokens)

    def select(self, x: Tensor) -> Tensor:
        """The rows of the tokens that stand for the groups, never an average: (B, N, C) to (B, M, C)."""
        return _rows(x, self._for(x, self.num_tokens)._flat_rep, self.num_groups)

    def key_bias(self, batch: int) -> Tensor:
        """(batch, 1, M) logarithms of the groups' sizes, which proportional attention adds to the scores of their keys."""
        return self._once(("key bias", batch), lambda: self._log_sizes().expand(batch, -1)[:, None])

    def _log_sizes(self) -> Tensor:
        sizes = self.rep.new_zeros(self.rep.shape, dtype=torch.float32)
        return sizes.scatter_add_(1, self.assign, torch.ones_like(self.assign, dtype=torch.float32)).log()

    def prepared(self, batch: int) -> "MergePlan":
        """The plan for ``batch`` rows with the order of its rows derived, so that its first use costs no more than the next."""
        plan = self if batch == len(self.assign) else self.repeat(batch // len(self.assign))
        _ = plan._order, plan._flat_assign, plan.proportional and plan.key_bias(batch)
        return plan

    def repeat(self, times: int) -> "MergePlan":
        """The plan for a batch that repeats this one's rows: (B, N) to (times * B, N)."""
        weight = None if self.weight is None else self.weight.repeat(times, 1)
        return MergePlan(self.assign.repeat(times, 1), self.rep.repeat(times, 1), weight, self.proportional)

    def _for(self, x: Tensor, tokens: int) -> "MergePlan":
        batch = len(self.assign)
        if x.ndim != 3 or x.shape[1] != tokens or batch not in (1, len(x)):
            raise ValueError(f"this plan takes ({batch if batch > 1 else 'B'}, {tokens}, C), given {tuple(x.shape)}")
        if batch == len(x):
            return self
        return self._once(("repeat", len(x)), lambda: self.repeat(len(x)))

    def _once(self, name: object, derive: Callable[[], Any]) -> Any:  # noqa: ANN401
        """What was derived under this name before, or is now; ``cached_property`` has a lock, which cannot be compiled."""
        if name not in self._derived:
            self._derived[name] = derive()
        return self._derived[name]

    @property
    def _flat_assign(self) -> Tensor:
        """(B * N,) group of every token, counted through the batch."""
        return self._once("flat assign", lambda: through_batch(self.assign, self.num_groups))

    @property
    def _flat_rep(self) -> Tensor:
        return self._once("flat rep", lambda: through_batch(self.rep, self.num_tokens))

    @property
    def _order(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Tokens sorted by group, where each group begins, and the tokens' shares in that order: what ``merge`` reads."""
        return self._once("order", self._sorted)

    def _sorted(self) -> tuple[Tensor, Tensor, Tensor | None]:
        groups, order = self._flat_assign.sort(stable=True)
        first = torch.arange(self.num_groups * len(self.assign), device=groups.device)
        offsets = torch.searchsorted(groups, first)
        return order, offsets, None if self.weight is None else self.weight.flatten()[order]


def top(score: Tensor, count: int) -> Tensor:
    """Mask of the ``count`` largest along the last axis, exactly that many also where values tie: (..., k) to (..., k) bool."""
    chosen = score.topk(count, dim=-1, sorted=False).indices
    return torch.zeros_like(score, dtype=torch.bool).scatter_(-1, chosen, True)


def pick(values: Tensor, index: Tensor) -> Tensor:
    """The elements of the last axis that ``index`` names: (..., k) and (..., j), broadcast, to (..., j)."""
    return values.gather(-1, index.expand(*values.shape[:-1], index.shape[-1]))


def _rows(x: Tensor, flat_index: Tensor, count: int) -> Tensor:
    return x.reshape(-1, x.shape[-1]).index_select(0, flat_index).view(len(x), count, x.shape[-1])


def through_batch(index: Tensor, rows: int) -> Tensor:
    """Indices into each row's ``rows`` tokens, counted through the batch: (B, n) to (B * n,)."""
    return (index + rows * torch.arange(len(index), device=index.device)[:, None]).flatten()
