"""How far merging changes single layers: each is compared with itself on its whole tokens, which then go on."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from torch import Tensor

from mergekit_diff import LayerContext, MergeSession, Plan

Layers = Mapping[str, Sequence[float | None]]


class LayerErrors:
    """Watches a session, whose model then makes what it makes without merging.

    Args:
        session: that merges.
    """

    def __init__(self, session: MergeSession) -> None:
        self._step = 0
        self._errors: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        session.observe(self._on_plan)
        session.shadow(self._on_layer)

    def by_site(self, steps: int) -> Layers:
        """For every site and step the change of its block's output by merging, relative to what the block adds to its input.

        The mean over the denoiser's calls in a step; None where nothing was merged.

        Args:
            steps: of the image.
        """
        return {site: [_mean(errors.get(step)) for step in range(steps)] for site, errors in self._errors.items()}

    def _on_plan(self, x: Tensor, ctx: LayerContext, plan: Plan | None, made: bool) -> None:
        self._step = ctx.step

    def _on_layer(self, site: str, x: Tensor, merged: Tensor, whole: Tensor) -> None:
        added = float((whole - x).float().norm())
        if added > 0:  # a layer that adds nothing can lose nothing
            self._errors[site][self._step].append(float((merged - whole).float().norm()) / added)


def _mean(errors: Sequence[float] | None) -> float | None:
    return None if errors is None else round(sum(errors) / len(errors), 6)
