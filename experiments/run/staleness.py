"""How stale a reused plan is: the share of tokens whose group would change if the plan were made again."""

from collections import defaultdict

import torch
from torch import Tensor

from mergekit_diff import LayerContext, MergePlan, MergeSession, Plan


class Staleness:
    """Watches a session and compares every plan in use with a fresh one from the same tokens.

    Args:
        session: whose plans are watched. Its images stay the same, but take longer.
    """

    def __init__(self, session: MergeSession) -> None:
        self.session = session
        self._counts: dict[int, list[tuple[float, int]]] = defaultdict(list)
        session.observe(self._on_plan)

    def by_step(self) -> list[float | None]:
        """For every step the share of tokens, over all sites, whose group has changed; None if no plan was in use."""
        last = max(self._counts, default=-1)
        return [_mean(self._counts[step]) if step in self._counts else None for step in range(last + 1)]

    def _on_plan(self, x: Tensor, ctx: LayerContext, plan: Plan | None, made: bool) -> None:
        if not isinstance(plan, MergePlan):
            return
        fresh = None if made else self.session.fresh_plan(x, ctx)
        share = 0.0 if not isinstance(fresh, MergePlan) else changed(plan.assign, fresh.assign)
        self._counts[ctx.step].append((share, plan.num_tokens))


def changed(old: Tensor, new: Tensor) -> float:
    """Share of tokens whose group has different members in two partitions.

    Args:
        old: (B, N) group of every token; B may be 1.
        new: (B, N) the same for the other partition; its groups may be numbered differently.
    """
    old, new = torch.broadcast_tensors(old, new)
    rows = [_moved(a, b) for a, b in zip(old, new, strict=True)]
    return float(torch.stack(rows).double().mean())


def _moved(a: Tensor, b: Tensor) -> Tensor:
    """(N,) whether a token's group differs: two groups are the same if both are as large as their intersection."""
    pair = a * (int(b.max()) + 1) + b
    sizes = [torch.unique(groups, return_inverse=True, return_counts=True) for groups in (a, b, pair)]
    in_a, in_b, in_both = (count[inverse] for _, inverse, count in sizes)
    return (in_a != in_both) | (in_b != in_both)


def _mean(counts: list[tuple[float, int]]) -> float:
    """Mean of shares, each weighted by its tokens."""
    return round(sum(share * n for share, n in counts) / sum(n for _, n in counts), 5)
