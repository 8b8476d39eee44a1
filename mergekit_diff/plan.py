"""Which token goes to which group, and back: the decision as a small immutable value that is then applied."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .ready import ReadyPlan, through_batch
from .reductions import Mean, Reduction

MEAN = Mean()


class Plan(Protocol):
    """What hooks ask of a plan, of whichever class: how N tokens become M and come back."""

    @property
    def num_tokens(self) -> int:
        """N."""
        ...

    @property
    def num_groups(self) -> int:
        """M."""
        ...

    def merge(self, x: Tensor, /) -> Tensor:
        """(B, N, C) tokens to (B, M, C)."""
        ...

    def unmerge(self, y: Tensor, /) -> Tensor:
        """(B, M, C) tokens back to (B, N, C)."""
        ...

    def select(self, x: Tensor, /) -> Tensor:
        """The rows of the representatives, such as their positions, never an average: (B, N, C) to (B, M, C)."""
        ...

    @property
    def sizes(self) -> Tensor:
        """(B, M) number of tokens in every group; B may be 1."""
        ...


@dataclass(frozen=True, eq=False)
class MergePlan:
    """A partition of N tokens into M groups, each with a token that represents it.

    Laws: ``assign[rep] == arange(M)``; ``merge(unmerge(y))`` is ``y``; the plain mean keeps the sum of the tokens, weighted by
    group size. All tensors share B; B may be 1, and the plan then serves every row of a batch. Two plans are equal if they are
    the same object: comparing their tensors would wait for the device.

    Args:
        assign: (B, N) int64, the group of every token, in [0, M).
        rep: (B, M) int64, the token that represents every group.
        weight: (B, N) weight of every token in its group's mean, summing to 1 in each group; None is the plain mean.
        reduction: how the tokens of a group become one.
        keep: when unmerging, this share of what the layer returned for a token at the last step is blended into the output of
            its group, in [0, 1]; tokens that are alone get theirs. The strategy must ask for "output". It changes nothing in
            "key_value", where nothing is unmerged.
        roles: the roles that this plan serves; nothing merges in others. None is all.

    Raises:
        ValueError: the tensors' shapes do not fit together, or ``keep`` is out of range.

    >>> plan = MergePlan(assign=torch.tensor([[0, 0, 1, 0]]), rep=torch.tensor([[0, 2]]))
    >>> x = torch.tensor([[[1.0], [2.0], [5.0], [3.0]]])
    >>> y = plan.merge(x)
    >>> y.flatten(), plan.unmerge(y).flatten()
    (tensor([2., 5.]), tensor([2., 2., 5., 2.]))
    >>> plan.select(x).flatten(), plan.sizes, plan.granted
    (tensor([1., 5.]), tensor([[3., 1.]]), 0.5)
    """

    assign: Tensor
    rep: Tensor
    weight: Tensor | None = None
    reduction: Reduction = MEAN
    keep: float = 0.0
    roles: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.keep <= 1:
            raise ValueError(f"expected keep in [0, 1], got {self.keep}")
        shapes = [tuple(t.shape) for t in (self.assign, self.rep, self.weight) if t is not None]
        if any(len(s) != 2 or s[0] != shapes[0][0] for s in shapes) or (self.weight is not None and shapes[2] != shapes[0]):
            raise ValueError(f"expected assign (B, N), rep (B, M) and weight (B, N) or None; got shapes {shapes}")

    @classmethod
    def from_target(
        cls,
        target: Tensor,
        num_groups: int,
        weight: Tensor | None = None,
        reduction: Reduction = MEAN,
        keep: float = 0.0,
        roles: tuple[str, ...] | None = None,
    ) -> "MergePlan":
        """The plan in which every token joins its target; groups are in the order of their representatives.

        Args:
            target: (B, N) int64, for every token the token that represents it; itself if it is kept.
            num_groups: M, the number of kept tokens, the same in every row; an argument, since counting waits for the device.
            weight: as in the class.
            reduction: as in the class.
            keep: as in the class.
            roles: as in the class.

        Raises:
            ValueError: the targets have another shape.

        >>> plan = MergePlan.from_target(torch.tensor([[0, 0, 2, 2]]), num_groups=2)
        >>> plan.assign, plan.rep
        (tensor([[0, 0, 1, 1]]), tensor([[0, 2]]))
        """
        if target.dim() != 2:
            raise ValueError(f"expected targets of shape (B, N), got {tuple(target.shape)}")
        batch, n = target.shape
        tokens = torch.arange(n, device=target.device).expand(batch, n)
        kept = target == tokens
        group = kept.cumsum(1) - 1
        slot = torch.where(kept, group, num_groups)
        rep = target.new_empty(batch, num_groups + 1).scatter_(1, slot, tokens)[:, :num_groups]
        return cls(group.gather(1, target), rep, weight, reduction, keep, roles)

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

    def merge(self, x: Tensor, /) -> Tensor:
        """Every group reduced to one token: (B, N, C) to (B, M, C)."""
        return self._ready_for(x).merge(x)

    def unmerge(self, y: Tensor, /) -> Tensor:
        """Copy every group's row to each of its tokens: (B, M, C) to (B, N, C)."""
        return self._ready_for(y).unmerge(y)

    def select(self, x: Tensor, /) -> Tensor:
        """The rows of the representatives, never an average: (B, N, C) to (B, M, C)."""
        return self._ready_for(x).select(x)

    @property
    def sizes(self) -> Tensor:
        """(B, M) float32, the number of tokens in every group."""
        return self.ready(len(self.assign)).sizes

    def repeat(self, times: int) -> "MergePlan":
        """The plan for a batch that repeats this one's rows: (B, N) to (times * B, N)."""
        if times == 1:
            return self
        weight = None if self.weight is None else self.weight.repeat(times, 1)
        assign, rep = self.assign.repeat(times, 1), self.rep.repeat(times, 1)
        return MergePlan(assign, rep, weight, self.reduction, self.keep, self.roles)

    def ready(self, batch: int) -> ReadyPlan:
        """The plan worked out for ``batch`` rows, a multiple of its own B; worth it if the plan is applied more than once."""
        plan = self.repeat(batch // len(self.assign))
        assign = through_batch(plan.assign, self.num_groups)
        groups, order = assign.sort(stable=True)
        offsets = torch.searchsorted(groups, torch.arange(batch * self.num_groups, device=groups.device))
        weights = None if plan.weight is None else plan.weight.flatten()[order]
        rep = through_batch(plan.rep, self.num_tokens)
        shape, how = (batch, self.num_tokens, self.num_groups), (self.reduction, self.keep, self.roles)
        return ReadyPlan(*shape, order, offsets, weights, assign, rep, *how)

    def _ready_for(self, x: Tensor) -> ReadyPlan:
        return self.ready(len(x) if len(self.assign) == 1 else len(self.assign))


def as_ready(plan: Plan, batch: int) -> Plan:
    """The plan in the form that is fastest to apply to ``batch`` rows; a plan of a class of your own is returned unchanged."""
    return plan.ready(batch) if isinstance(plan, MergePlan) else plan


def serves(plan: Plan, role: str) -> bool:
    """Whether tokens merge by this plan in a role; a plan of a class of your own serves all."""
    roles = plan.roles if isinstance(plan, (MergePlan, ReadyPlan)) else None
    return roles is None or role in roles


def top(score: Tensor, count: int) -> Tensor:
    """Mask of the ``count`` largest along the last axis, exactly that many even if values tie: (..., k) to (..., k) bool.

    >>> top(torch.tensor([3.0, 1.0, 2.0]), 2)
    tensor([ True, False,  True])
    """
    chosen = score.topk(count, dim=-1, sorted=False).indices
    return torch.zeros_like(score, dtype=torch.bool).scatter_(-1, chosen, True)


def pick(values: Tensor, index: Tensor) -> Tensor:
    """The elements at ``index`` along the last axis: (..., k) and (..., j), broadcast, to (..., j)."""
    return values.gather(-1, index.expand(*values.shape[:-1], index.shape[-1]))
