"""The plans of blocks that gradient checkpointing runs again during backward: they must be those of the first run."""

import torch
from torch import Tensor

from .plan import Plan
from .sites import Site

Plans = tuple[Plan | None, Plan | None]


class Recomputation:
    """Remembers the plans of every block that may run again, until its gradient has been computed.

    The key is the site and the address of its input. Step and call cannot be the key: by then the clock is at the image's last
    step. Nor can the tensor itself: reentrant checkpointing passes a detached one, with the same memory. That memory is in use
    until the gradient has been computed, and then the entry is removed.
    """

    def __init__(self) -> None:
        self._plans: dict[tuple[str, int], Plans] = {}

    def __len__(self) -> int:
        return len(self._plans)

    def recall(self, site: Site, x: Tensor) -> Plans | None:
        """The plans of the first run with this (B, N, C) input; None if there was none, or gradients are off."""
        return self._plans.get((site.name, x.data_ptr())) if _wanted() else None

    def remember(self, site: Site, x: Tensor, plans: Plans) -> None:
        """Keep the plans of a block if gradients pass through it."""
        if not _wanted() or not (x.requires_grad or any(p.requires_grad for p in site.block.parameters())):
            return
        key = (site.name, x.data_ptr())
        self._plans[key] = plans
        if x.requires_grad:
            x.register_hook(lambda _: self._forget(key))

    def clear(self) -> None:
        """Forget all plans."""
        self._plans = {}

    def _forget(self, key: tuple[str, int]) -> None:
        """Called when the gradient of the block's input is computed: the block will not run again."""
        self._plans.pop(key, None)


def _wanted() -> bool:
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()
