"""Whether what a strategy returned is a plan: a wrong number of groups raises nothing by itself and would spoil every image."""

from typing import Any

import torch

from mergekit_diff import MergePlan, MergeStrategy

ASKED = ("num_tokens", "num_groups", "merge", "unmerge", "select")


def check_plan(strategy: MergeStrategy, plan: Any, tokens: int) -> None:  # noqa: ANN401
    """Refuse what is no plan for this many tokens.

    Args:
        strategy: what returned it.
        plan: what it returned.
        tokens: N.

    Raises:
        ValueError: says what the plan should have had.
    """
    if plan is None:
        return
    missing = [name for name in ASKED if not hasattr(plan, name)]
    if missing:
        raise ValueError(f"{strategy.name}: expected plan to return a plan or None, got {type(plan).__name__}")
    if plan.num_tokens != tokens:
        raise ValueError(f"{strategy.name}: expected a plan of {tokens} tokens, got one of {plan.num_tokens}")
    if isinstance(plan, MergePlan) and not _is_partition(plan):
        raise ValueError(
            f"{strategy.name}: expected a plan of {plan.num_groups} groups, each with its representative; got another number:"
            " from_target needs as many tokens that are their own target"
        )


def _is_partition(plan: MergePlan) -> bool:
    """Whether every token has a group, and every group a representative of its own in it."""
    groups = torch.arange(plan.num_groups)
    inside = bool(((plan.assign >= 0) & (plan.assign < plan.num_groups)).all())
    known = bool(((plan.rep >= 0) & (plan.rep < plan.num_tokens)).all())
    return inside and known and bool((plan.assign.gather(1, plan.rep) == groups).all())
