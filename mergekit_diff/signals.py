"""What a session gives to a strategy because it asks: the possible words of ``MergeStrategy.needs``."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from .components import LayerContext, MergeStrategy
from .recording import Prediction, Records
from .registry import one_of
from .sites import Site

SIGNALS = {
    "last_plan": "the plan that the strategy returned before this one for the same site, role and image, for the rows that it "
    "sees; absent at the first step of an image, after any change of grid, batch, dtype, device or what a window schedule of the "
    "strategy returns, where it returned None, and where its `memory` ends",
    "normalized": "(B, N, C) input of the block's first attention, for the rows that the strategy sees: the block's input after "
    "its first norm; refused where that norm also reads the timestep",
    "keys": "(B, N, c) keys of the block's first attention, before any rotation and averaged over its heads, for the rows that "
    "the strategy sees; where a block has no map of its own for keys, its `normalized`, and where that is refused, its input",
    "key_norm": "(B, N) norms of the keys of the block's first attention, before any rotation and norm of their own, mean over "
    "its heads, for the rows that the strategy sees; where a block has no map of its own for keys, of what `keys` then is",
    "prediction": "a `Prediction`: the guidance difference of the denoiser's last outputs and their change over the last two "
    "steps, averaged over channels, on the site's grid, of all frames also where some are clean; absent at the first step of "
    "an image",
    "output": "nothing to read: the session records what every layer with this strategy's roles returned at the last step, so "
    "that `MergePlan(keep=...)` can blend it in; a tensor (B, N, C) a layer; not for blocks that gradient checkpointing "
    "runs again",
    "age": "(B, N) float32, the number of steps since a token was last in a group of its own, for the rows that the strategy "
    "sees; absent where `last_plan` is, but for windows and `memory`",
}
"""Every word that a strategy may ask for, and what ``LayerContext.signals`` then has under it.

The last plan comes without its age: a compiled session has a graph for each value of a number that a strategy reads.
"""


def asked(strategy: MergeStrategy) -> tuple[str, ...]:
    """The words that a strategy asks for.

    Raises:
        ValueError: a word that is not in ``SIGNALS``.

    >>> from mergekit_diff import make
    >>> asked(make("strategy", "tomesd")), asked(make("strategy", {"name": "retom", "tokens": "normalized"}))
    ((), ('normalized',))
    """
    return tuple(one_of(word, SIGNALS, f"signal in needs of {type(strategy).__name__}") for word in strategy.asks())


class Signals:
    """The signals of one session.

    Args:
        strategy: asks for them.
        sites: where it makes plans.
        records: what the session records.

    Raises:
        ValueError: the strategy asks for an unknown word, or for one that a site cannot give.
    """

    def __init__(self, strategy: MergeStrategy, sites: Iterable[Site], records: Records) -> None:
        self.words, self._records = asked(strategy), records
        sites = list(sites)
        self._normalize = {site.name: site.normalize for site in sites}
        self._keys = {site.name: _keys(site) for site in sites}
        self._key_norm = {site.name: _key_norm(site) for site in sites}
        silent = [name for name, normalize in self._normalize.items() if normalize is None]
        if "normalized" in self.words and silent:
            raise ValueError(
                f"{type(strategy).__name__} needs 'normalized', but {len(silent)} of {len(self._normalize)} blocks do not offer "
                f"their attention's input as a norm of the tokens alone, the first is {silent[0]}"
            )

    def recorded(self, ctx: LayerContext, batch: int, rows: Callable[[Tensor], Tensor], together: bool) -> dict[str, Any]:
        """The signals from the records.

        Args:
            ctx: where and when.
            batch: number of rows of the block's input.
            rows: takes of values for these rows those that the strategy sees.
            together: whether these have one plan, and so their mean value.
        """
        found = self._records.prediction(ctx.grid, batch) if "prediction" in self.words else None
        if found is None:
            return {}

        def seen(values: Tensor | None) -> Tensor | None:
            return None if values is None else rows(values).mean(0, keepdim=True) if together else rows(values)

        return {"prediction": Prediction(seen(found.guidance), seen(found.change))}

    def added(self, ctx: LayerContext, x: Tensor, folded: Callable[[Tensor], Tensor]) -> LayerContext:
        """The context with those signals that need the site's (B, N, C) tokens, folded as the strategy sees them."""
        normalize = self._normalize[ctx.site] if "normalized" in self.words else None
        made = {} if normalize is None else {"normalized": folded(normalize(x))}
        if "keys" in self.words:
            made["keys"] = folded(self._keys[ctx.site](x))
        if "key_norm" in self.words:
            made["key_norm"] = folded(self._key_norm[ctx.site](x)[..., None]).mean(-1)
        return dataclasses.replace(ctx, signals={**ctx.signals, **made}) if made else ctx


def _keys(site: Site) -> Callable[[Tensor], Tensor]:
    """Makes the keys of a site's first attention from the block's (B, N, C) input, or what stands for them."""
    attention = next(iter(site.parts("self_attention")), None)
    normalize, to_k, heads = site.normalize, getattr(attention, "to_k", None), getattr(attention, "heads", 1)
    if normalize is None:
        return lambda x: x
    if not isinstance(to_k, nn.Module):
        return normalize
    return lambda x: to_k.forward(normalize(x)).unflatten(-1, (heads, -1)).mean(-2)  # not its hooks, which merge


def _key_norm(site: Site) -> Callable[[Tensor], Tensor]:
    """Makes (B, N) norms of those keys, each head's by itself."""
    attention, normalize = next(iter(site.parts("self_attention")), None), site.normalize
    to_k = next((part for name in ("to_k", "k_proj") if isinstance(part := getattr(attention, name, None), nn.Linear)), None)
    if normalize is None or to_k is None:
        keys = _keys(site)
        return lambda x: keys(x).norm(dim=-1)
    size = getattr(attention, "head_dim", None) or to_k.out_features // getattr(attention, "heads", 1)
    return lambda x: to_k.forward(normalize(x)).unflatten(-1, (-1, size)).norm(dim=-1).mean(-1)  # not its hooks, which merge


def toy_signals(strategy: MergeStrategy, x: Tensor) -> dict[str, Any]:
    """What a strategy is given for (B, N, C) tokens of no model, at the first step: the plain norm of the channels."""
    words = asked(strategy)
    made = {word: F.layer_norm(x, x.shape[-1:]) for word in ("normalized", "keys") if word in words}
    return made | ({"key_norm": x.norm(dim=-1)} if "key_norm" in words else {})
