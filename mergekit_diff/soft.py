"""A soft plan: inside each window every kept token is a weighted mean of all tokens, and every token one of the kept ones."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .windows import Windows


@dataclass(frozen=True, eq=False)
class SoftPlan:
    """Two small matrices for each window, applied window by window; a :class:`mergekit_diff.Plan`.

    The T windows of n tokens keep m tokens each. Windows that the grid's border cuts have another shape, and matrices of their
    own: there is one tensor for every group of ``windows``. A dense (M, N) matrix is never made, so memory grows with N * m.

    Laws: rows of ``down`` and ``up`` sum to 1, so that ``unmerge(merge(x))`` is ``x`` where all tokens of a window are equal.
    Unlike those of a partition, groups overlap: ``merge(unmerge(y))`` is not ``y``.

    Args:
        down: (B, T, m, n) for each group of windows, the weights of its tokens in the kept ones.
        up: (B, T, n, m) for each group, the weights of the kept tokens in its tokens.
        rep: (B, M) int64, the token that stands for every kept one, window by window. B may be 1 in all tensors, and the plan
            then serves every row of a batch.
        windows: where they are.

    Raises:
        ValueError: the tensors' shapes do not fit together.

    >>> windows = Windows((torch.tensor([[0, 1], [2, 3]]),), torch.arange(4))
    >>> down = torch.tensor([[[[0.5, 0.5]], [[1.0, 0.0]]]])
    >>> plan = SoftPlan((down,), (torch.ones(1, 2, 2, 1),), torch.tensor([[0, 2]]), windows)
    >>> y = plan.merge(torch.tensor([[[1.0], [3.0], [5.0], [7.0]]]))
    >>> y.flatten(), plan.unmerge(y).flatten(), plan.sizes
    (tensor([2., 5.]), tensor([2., 2., 5., 5.]), tensor([[2., 2.]]))
    """

    down: tuple[Tensor, ...]
    up: tuple[Tensor, ...]
    rep: Tensor
    windows: Windows

    def __post_init__(self) -> None:
        wanted = [(*group.shape, down.shape[2]) for group, down in zip(self.windows.groups, self.down, strict=True)]
        fits = all(tuple(up.shape[1:]) == shape for up, shape in zip(self.up, wanted, strict=True))
        fits = fits and all(tuple(d.mT.shape) == tuple(u.shape) for d, u in zip(self.down, self.up, strict=True))
        if not fits or self.rep.shape != (len(self.down[0]), sum(t * m for t, _, m in wanted)):
            shapes = [[tuple(t.shape) for t in each] for each in (self.down, self.up, (self.rep,))]
            raise ValueError(f"expected down (B, T, m, n) and up (B, T, n, m) of each group of windows, rep (B, M); got {shapes}")

    @property
    def num_tokens(self) -> int:
        """N."""
        return len(self.windows.back)

    @property
    def num_groups(self) -> int:
        """M."""
        return self.rep.shape[1]

    @property
    def granted(self) -> float:
        """The merge ratio of this plan, 1 - M / N."""
        return 1 - self.num_groups / self.num_tokens

    def merge(self, x: Tensor, /) -> Tensor:
        """The weighted means of each window: (B, N, C) to (B, M, C)."""
        self._check(x, self.num_tokens)
        parts = [down.to(x.dtype) @ x[:, _plain(group)] for group, down in zip(self.windows.groups, self.down, strict=True)]
        return torch.cat([part.flatten(1, 2) for part in parts], 1)

    def unmerge(self, y: Tensor, /) -> Tensor:
        """Every token as a weighted mean of the kept ones of its window: (B, M, C) to (B, N, C)."""
        self._check(y, self.num_groups)
        parts = y.split([up.shape[1] * up.shape[3] for up in self.up], 1)
        spread = [up.to(y.dtype) @ part.unflatten(1, (up.shape[1], -1)) for up, part in zip(self.up, parts, strict=True)]
        return torch.cat([part.flatten(1, 2) for part in spread], 1).index_select(1, _plain(self.windows.back))

    def select(self, x: Tensor, /) -> Tensor:
        """The rows of the kept tokens, never an average: (B, N, C) to (B, M, C)."""
        self._check(x, self.num_tokens)
        return x.gather(1, self.rep.expand(len(x), -1)[..., None].expand(-1, -1, x.shape[-1]))

    @property
    def sizes(self) -> Tensor:
        """(B, M) float32, the soft number of tokens that every kept one stands for: its weights in ``unmerge``; together N."""
        return torch.cat([up.float().sum(-2).flatten(1) for up in self.up], 1)

    @property
    def assign(self) -> Tensor:
        """(B, N) int64, the kept token of largest weight in every token: the partition nearest to this plan, for maps."""
        first, parts = 0, []
        for up in self.up:
            _, count, _, kept = up.shape
            parts.append(up.argmax(-1) + (first + kept * torch.arange(count, device=up.device))[:, None])
            first += count * kept
        return self.windows.join(parts)

    def repeat(self, times: int) -> "SoftPlan":
        """The plan for a batch that repeats this one's rows; that of one row serves all as it is."""
        if times == 1 or len(self.rep) == 1:
            return self
        down, up = (tuple(each.repeat(times, 1, 1, 1) for each in both) for both in (self.down, self.up))
        return SoftPlan(down, up, self.rep.repeat(times, 1), self.windows)

    def _check(self, x: Tensor, tokens: int) -> None:
        batch = len(self.rep)
        if x.ndim != 3 or x.shape[1] != tokens or batch not in (1, len(x)):
            raise ValueError(f"expected tokens ({'B' if batch == 1 else batch}, {tokens}, C) for this plan, got {tuple(x.shape)}")


def _plain(index: Tensor) -> Tensor:
    """Tokens of windows that were made in inference mode, as gradients can go through."""
    if torch.compiler.is_compiling():  # which cannot ask
        return index
    return index.clone() if index.is_inference() and not torch.is_inference_mode_enabled() else index
