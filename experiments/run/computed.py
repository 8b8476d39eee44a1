"""How much of a denoiser runs where a step cache skips blocks: counted, since a threshold alone does not say it."""

from collections.abc import Callable
from typing import Any

from torch import nn

from mergekit_diff.sites import find_sites

from .call import Removable


class Computed:
    """Counts the blocks that run. Hooks of a block itself also fire where a cache answers for it; those of its attention do not.

    Args:
        denoiser: whose blocks attend to themselves.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        self.denoiser, self.sites = denoiser, find_sites(denoiser)
        self.calls = self.ran = 0

    def attach(self) -> list[Removable]:
        """Count from now on, until the handles are removed."""
        handles: list[Removable] = [self.denoiser.register_forward_pre_hook(self._counter("calls"))]
        return handles + [site.parts("self_attention")[0].register_forward_pre_hook(self._counter("ran")) for site in self.sites]

    @property
    def share(self) -> float | None:
        """Of the blocks, mean over the calls so far; None before the first."""
        return round(self.ran / (self.calls * len(self.sites)), 4) if self.calls else None

    def _counter(self, name: str) -> Callable[..., None]:
        def count(*_: Any) -> None:  # noqa: ANN401
            setattr(self, name, getattr(self, name) + 1)

        return count
