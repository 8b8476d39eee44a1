"""The plans of blocks that gradient checkpointing runs again during backward: the same as the first time."""

import torch
from torch import Tensor

from .plan import Plan
from .sites import Site

Plans = tuple[Plan | None, Plan | None]


class Recomputation:
    """Remembers the plans of every block that may run again, until its gradient has passed."""

    def __init__(self) -> None:
        self._plans: dict[tuple[str, int], Plans] = {}

    def __len__(self) -> int:
        return len(self._plans)

    def recall(self, site: Site, x: Tensor) -> Plans | None:
        """What was chosen for this very (B, N, C) input of a block; None if nothing was, or no gradient is wanted."""
        return self._plans.get((site.name, x.data_ptr())) if _wanted() else None

    def remember(self, site: Site, x: Tensor, plans: Plans) -> None:
        """Keep the plans of a block if it, or what comes before it, is trained."""
        if not _wanted() or not (x.requires_grad or any(p.requires_grad for p in site.block.parameters())):
            return
        key = (site.name, x.data_ptr())
        self._plans[key] = plans
        if x.requires_grad:
            x.register_hook(lambda _: self._forget(key))

    def clear(self) -> None:
        """Forget all."""
        self._plans = {}

    def _forget(self, key: tuple[str, int]) -> None:
        """The gradient has come through this block: it is not run again."""
        self._plans.pop(key, None)


def _wanted() -> bool:
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()
