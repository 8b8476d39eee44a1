"""Inside ``scaled_dot_product_attention``: log sizes of merged keys, and keys and values that merge after their rotation.

Every processor calls that function, and none can drop or refuse what is changed there, while some drop the mask that an attention
is given. Only the call is changed; the attention's own ``forward`` stays as it is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .plan import Plan
from .rows import positions, representatives, within
from .sites import Layout

ROTARY = ("values", "pick", "mean", "before")
NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
Change = Callable[[dict[str, Any], int], dict[str, Any]]


class Scores(TorchFunctionMode):
    """While it is entered, self-attention is computed on changed arguments.

    Args:
        change: makes the arguments of ``scaled_dot_product_attention`` from those that were passed, by name, and the number of
            calls before. Those in which there are more or fewer keys than queries are not self-attention and pass.
        more_keys: whether there may be more keys than queries.
        of_others: whether it is the attention of other tokens to those of the grid, so that all calls are changed.
    """

    def __init__(self, change: Change, more_keys: bool = False, of_others: bool = False) -> None:
        super().__init__()
        self.change, self.more_keys, self.of_others = change, more_keys, of_others
        self.calls, self.entered = 0, False

    def enter(self) -> None:
        """Change the calls from now on."""
        self.__enter__()
        self.calls, self.entered = 0, True

    def leave(self) -> bool:
        """Change none any more; whether any was changed, if it had been entered."""
        if not self.entered:
            return True
        self.__exit__(None, None, None)
        self.entered = False
        return self.calls > 0 or torch.compiler.is_compiling()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Change the call if it is self-attention."""
        if func is not F.scaled_dot_product_attention:
            if isinstance(func, FunctionType) and getattr(Tensor, func.__name__, None) is func:
                return getattr(args[0], func.__name__)(*args[1:], **(kwargs or {}))  # torch.compile cannot trace it otherwise
            return func(*args, **(kwargs or {}))
        arguments = dict(zip(NAMES, args, strict=False)) | dict(kwargs or {})
        further = arguments["key"].shape[-2] - arguments["query"].shape[-2]
        if self.of_others or further == 0 or (self.more_keys and further > 0):
            arguments = self.change(arguments, self.calls)
            self.calls += 1
        return func(**arguments)


@dataclass(frozen=True)
class PlanOfRow:
    """A plan for one row of a batch, where an attention is computed row by row.

    Args:
        plan: for all rows.
        batch: how many they are.
        row: which one.
    """

    plan: Plan
    batch: int
    row: int

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.plan.num_tokens

    @property
    def num_groups(self) -> int:
        """M."""
        return self.plan.num_groups

    def merge(self, x: Tensor, /) -> Tensor:
        """(1, N, C) tokens to (1, M, C)."""
        return self._of_row(self.plan.merge, x)

    def unmerge(self, y: Tensor, /) -> Tensor:
        """(1, M, C) tokens back to (1, N, C)."""
        return self._of_row(self.plan.unmerge, y)

    def select(self, x: Tensor, /) -> Tensor:
        """The rows of the representatives: (1, N, C) to (1, M, C)."""
        return self._of_row(self.plan.select, x)

    @property
    def sizes(self) -> Tensor:
        """(1, M) number of tokens in every group."""
        return self.plan.sizes.expand(self.batch, -1)[self.row, None]

    def _of_row(self, change: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return change(x.expand(self.batch, -1, -1))[self.row, None]


def with_sizes(arguments: dict[str, Any], plan: Plan, layout: Layout) -> dict[str, Any]:
    """Add the logarithms of the groups' sizes to the scores of the keys, which are already merged (Bolya et al. 2023)."""
    key: Tensor = arguments["key"]
    return arguments | {"attn_mask": _biased(arguments.get("attn_mask"), key, plan, layout)}


def ways(plan: Plan, rotary: str) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """How rotated keys merge, and how values do: each (B, N, C) to (B, M, C).

    Args:
        plan: which tokens merge.
        rotary: "values": the representative's key and the mean value; "pick": its key and value; "mean": the mean of both;
            "before": the same as "pick", for keys and values whose projections are merged already.
    """
    return {
        "values": (plan.select, plan.merge),
        "pick": (plan.select, plan.select),
        "mean": (plan.merge, plan.merge),
        "before": (plan.select, plan.select),
    }[rotary]


def with_merged_keys(arguments: dict[str, Any], plan: Plan, layout: Layout, rotary: str) -> dict[str, Any]:
    """Merge the keys and values (B, heads, L, C) of the grid's tokens.

    Args:
        arguments: those of ``scaled_dot_product_attention`` by name.
        plan: which tokens merge.
        layout: where they are.
        rotary: as in :func:`ways`.
    """
    keys, values = ways(plan, rotary)
    key = reduced(arguments["key"], layout, plan.num_tokens, keys)
    mask = arguments.get("attn_mask")
    if mask is not None and mask.shape[-1] > 1:
        index = positions(layout, representatives(plan, len(key), key.device), mask.shape[-1])
        mask = mask.expand(len(key), *mask.shape[1:])
        mask = mask.gather(-1, index[:, None, None].expand(*mask.shape[:-1], -1))
    value = reduced(arguments["value"], layout, plan.num_tokens, values)
    return arguments | {"key": key, "value": value, "attn_mask": mask}


def reduced(x: Tensor, layout: Layout, number: int, change: Callable[[Tensor], Tensor]) -> Tensor:
    """A change of (B, N, C) tokens, on (B, heads, L, C)."""
    heads = x.shape[1]
    return within(x.transpose(1, 2).flatten(2), layout, number, change).unflatten(2, (heads, -1)).transpose(1, 2)


def _biased(mask: Tensor | None, key: Tensor, plan: Plan, layout: Layout) -> Tensor:
    """(B or 1, 1, 1, keys) or (B, ...) numbers to add to the scores."""
    begin = layout.begin(key.shape[-2], plan.num_groups)
    behind = key.shape[-2] - begin - plan.num_groups
    bias = F.pad(plan.sizes.log(), (begin, behind))[:, None, None].to(key.dtype)
    if mask is None:
        return bias
    return torch.where(mask, bias, -torch.inf) if mask.dtype == torch.bool else mask + bias
