"""Acting on the grid's tokens alone, inside a longer sequence, and on the arguments that have a row for each of them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from .plan import Plan
from .sites import Layout, Rows


def inside(x: Tensor, layout: Layout) -> Tensor:
    """The grid's tokens (B, N, C) of a sequence (B, L, C)."""
    if layout.start is None:
        return x
    return x.narrow(1, layout.begin(x.shape[1], layout.number), layout.number)


def within(x: Tensor, layout: Layout, number: int, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change the grid's tokens in a sequence; the others, such as text, are copied.

    Args:
        x: (B, L, C).
        layout: where they are.
        number: how many they are: N, or M once they are merged.
        change: of (B, number, C) tokens.

    >>> within(torch.ones(1, 3, 1), Layout((2,), start=-2), 2, lambda tokens: tokens.sum(1, keepdim=True)).flatten()
    tensor([1., 2.])
    """
    begin = layout.begin(x.shape[1], number)
    if x.shape[1] == number:
        return change(x)
    before, inside, behind = x.split([begin, number, x.shape[1] - begin - number], 1)
    return torch.cat([before, change(inside), behind], 1)


def representatives(plan: Plan, batch: int, device: torch.device) -> Tensor:
    """(B, M) the token that stands for every group, for any class of plan."""
    tokens = torch.arange(plan.num_tokens, device=device)[None, :, None]
    return plan.select(tokens.expand(batch, -1, 1)).squeeze(-1)


def placed(y: Tensor, plan: Plan) -> Tensor:
    """(B, N, C) with the rows of the groups (B, M, C) at their representatives, where ``select`` finds them; zero elsewhere.

    ``unmerge`` would do for a partition; a plan whose groups overlap would mix the rows.
    """
    index = representatives(plan, len(y), y.device)[..., None].expand(-1, -1, y.shape[-1])
    return y.new_zeros(len(y), plan.num_tokens, y.shape[-1]).scatter(1, index, y)


def selected(value: Any, rows: Rows, layout: Layout, index: Tensor) -> Any:  # noqa: ANN401
    """An argument with the rows of the representatives alone, and the rows of other tokens unchanged.

    Args:
        value: the argument, of tensors however nested.
        rows: where its rows are.
        layout: where the grid's tokens are.
        index: (B, M) from :func:`representatives`.
    """
    if not rows.path:
        return tree_map(lambda leaf: _kept(leaf, rows, layout, index) if isinstance(leaf, Tensor) else leaf, value)
    if value is None:
        return None
    place, *rest = rows.path
    inner = replace(rows, path=tuple(rest))
    return type(value)(selected(each, inner, layout, index) if i == place else each for i, each in enumerate(value))


def _kept(value: Tensor, rows: Rows, layout: Layout, index: Tensor) -> Tensor:
    if rows.dims not in (None, value.dim()) or value.dim() <= rows.axis or value.shape[rows.axis] < layout.number:
        return value
    kept = positions(layout, index, value.shape[rows.axis])
    if not rows.batched:
        return value.index_select(rows.axis, kept[0])
    each = torch.arange(len(index), device=index.device)[:, None]
    return value.expand(len(index), *value.shape[1:]).movedim(rows.axis, 1)[each, kept].movedim(1, rows.axis)


def positions(layout: Layout, index: Tensor, length: int) -> Tensor:
    """(B, length - N + M) what is kept of a sequence: all other tokens, and the representatives (B, M) of the grid's."""
    begin = layout.begin(length, layout.number)
    others = torch.arange(length, device=index.device).expand(len(index), -1)
    return torch.cat([others[:, :begin], index + begin, others[:, begin + layout.number :]], 1)
