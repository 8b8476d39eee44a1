"""A plan that is due or in use, and what the next one at the same place is told about it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from .components import LayerContext, MergeStrategy
from .plan import MergePlan, Plan


@dataclass(frozen=True)
class Tokens:
    """The layout of a block's input; its values do not matter here."""

    grid: tuple[int, ...]
    batch: int
    number: int
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, x: Tensor, grid: tuple[int, ...]) -> "Tokens":
        """The layout of (B, N, C) tokens on a grid."""
        return cls(grid, x.shape[0], x.shape[1], x.dtype, x.device)


@dataclass(frozen=True)
class BatchView:
    """Which rows of a batch a strategy sees.

    Args:
        parts: 2 if the rows are the halves of guidance and the plan comes from one of them alone, else 1.
        part: which of them.
        together: whether these rows get one plan, from all of them: then it gets them as one row of longer tokens.
    """

    parts: int = 1
    part: int = 0
    together: bool = False

    def rows(self, x: Tensor) -> Tensor:
        """The rows of (B, N, C) tokens whose plan is asked for."""
        size = len(x) // self.parts
        return x[size * self.part : size * (self.part + 1)]

    def folded(self, rows: Tensor) -> Tensor:
        """(1, N, B * C) if the rows get one plan, else the same (B, N, C)."""
        return rearrange(rows, "b n c -> 1 n (b c)") if self.together and len(rows) > 1 else rows


@dataclass
class Turn:
    """A plan that is due or in use: what it is made from, and what decides how long it is used. Only the planner writes it.

    Args:
        strategy: makes the plan; its schedules are replaced by what they returned for ``ctx``.
        ctx: where and when the plan is made, with its noise.
        view: the rows that the strategy sees.
        tokens: the layout that the plan is for.
        image: index of the image that it was made for.
        settings: what the schedules returned.
        checked: the last step at which it was found valid.
        due: whether it has yet to be made.
        plan: what the strategy chose, for every row of the batch.
        chosen: the same for the rows that the strategy saw, if it asks for ``last_plan`` or ``age``.
        since: the step of the last plan that was made without ``last_plan``; this one or an earlier one.
        ready: the plan in the form that hooks apply; None where no token merges.
        gate: what a gate decided about it.
    """

    strategy: MergeStrategy
    ctx: LayerContext
    view: BatchView
    tokens: Tokens
    image: int
    settings: tuple[Any, ...]
    checked: int
    since: int
    due: bool = True
    plan: Plan | None = None
    chosen: Plan | None = None
    ready: Plan | None = None
    gate: Mapping[str, Any] | None = None

    def fits(self, image: int, tokens: Tokens, view: BatchView) -> bool:
        """Whether it is for the same image and the same layout."""
        return self.image == image and (self.tokens, self.view) == (tokens, view)

    def as_last(self, step: int, memory: int | None) -> tuple[Plan | None, int]:
        """The plan to give as ``last_plan`` at a step, and the step since which such plans have been given in turn.

        Args:
            step: of the plan that is due.
            memory: the number of steps for which such plans are given in turn; None is without end.
        """
        if self.ctx.step == step:  # this step's plan is made again, for an observer
            return self.ctx.signals.get("last_plan"), self.since
        if self.chosen is None or (memory is not None and step - self.since >= memory):
            return None, step
        return self.chosen, self.since

    def age(self, step: int) -> Tensor | None:
        """(rows that the strategy sees, N) steps since each token was last alone in its group; None before the first plan.

        Raises:
            ValueError: the plan is no partition.
        """
        age, plan = self.ctx.signals.get("age"), self.chosen
        if self.ctx.step == step:
            return age
        rows = 1 if self.view.together else self.tokens.batch // self.view.parts
        if plan is None:
            return torch.zeros(rows, self.tokens.number, device=self.tokens.device)
        if not isinstance(plan, MergePlan):
            raise ValueError(f"'age': expected a strategy whose plans are partitions, got {type(plan).__name__}")
        older = step - self.ctx.step + (0.0 if age is None else age)
        shared = plan.sizes.gather(1, plan.assign) > 1
        return torch.where(shared, older, 0.0).expand(rows, -1).contiguous()
