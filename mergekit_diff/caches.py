"""Keys and values of a causal model merge in its cache, after the attention ran, so that no token sees a later one.

Merged tokens of the prompt are what later calls attend to. Each call that reads several new tokens has a plan for these alone.
"""

from functools import cache
from types import new_class
from typing import Any

import torch
from torch import Tensor

from .options import Options
from .plan import Plan
from .rows import within
from .scores import reduced, ways
from .sites import Cached, Layout

WHOLE = (4, 16)
"""Tokens that stay whole: the first ones, which later tokens attend to whatever they say (attention sinks, Xiao et al. 2023,
arXiv 2309.17453), and the newest of every call."""


class MergedKeys:
    """What a layer of a cache can do besides, once keys merged in it; a base of a class made from the layer's own.

    It reports its logical length, so that positions and masks stay those of the text.

    Args:
        keys: (B, heads, K, D), K of them for a text of K + ``hidden`` tokens.
        values: the same.
        sizes: (B, K), how many tokens each of them stands for.
        hidden: how many are not there any more.
        sized: whether their sizes count in the scores.
        expected: whether the attention that updates the layer next takes the sizes into account.
    """

    keys: Tensor
    values: Tensor
    sizes: Tensor
    hidden: int
    sized: bool
    expected: bool
    is_croppable = False

    @property
    def _plain(self) -> Any:  # noqa: ANN401
        """The layer's own class."""
        return super()

    def get_seq_length(self) -> int:
        """The number of tokens of the text so far."""
        return self._plain.get_seq_length() + self.hidden

    def get_mask_sizes(self, query: Any) -> tuple[int, int]:  # noqa: ANN401
        """The number of keys in a call, and the position of the first of them that keeps the newest at their own."""
        length, offset = self._plain.get_mask_sizes(query)
        return length - self.hidden, offset + self.hidden

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """Append the keys and values of new tokens, each of size 1.

        Raises:
            RuntimeError: the attention would ignore the sizes of the merged keys.
        """
        if self.sized and not self.expected:
            raise RuntimeError("expected a session of `merging`, since keys of this cache merged in one; got a call outside")
        self.expected = False
        new = self.sizes.new_ones(key_states.shape[0], key_states.shape[-2])
        self.sizes = torch.cat([self.sizes, new], 1) if self.sizes.numel() else new
        return self._plain.update(key_states, value_states, *args, **kwargs)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Sizes go with the rows that beam search keeps."""
        self._plain.reorder_cache(beam_idx)
        self.sizes = self.sizes.index_select(0, beam_idx.to(self.sizes.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        self._plain.batch_repeat_interleave(repeats)
        self.sizes = self.sizes.repeat_interleave(repeats, 0)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        self._plain.batch_select_indices(indices)
        self.sizes = self.sizes[indices]

    def reset(self) -> None:
        """Forget the text."""
        self._plain.reset()
        self.hidden, self.sized = 0, False
        self.sizes = self.sizes[:, : self._plain.get_seq_length()]

    def crop(self, tokens_to_remove: int) -> None:
        """Tokens cannot be taken back.

        Raises:
            ValueError: any shall be.
        """
        if tokens_to_remove:
            raise ValueError(
                "expected a decoding that takes no token back, got one that crops the cache, such as assisted decoding"
            )


def merged_newest(layer: Any, plan: Plan, place: Layout, number: int, rotary: str, *, sized: bool) -> MergedKeys:  # noqa: ANN401
    """A layer of a cache in which the newest keys and values are merged.

    Args:
        layer: it has ``keys`` and ``values`` (B, heads, K, D), rotated if the model rotates them; merged before or not.
        plan: which of the newest tokens merge.
        place: where those that may are among the newest.
        number: of the newest tokens.
        rotary: how they merge, as in :func:`mergekit_diff.scores.ways`; not "before".
        sized: whether their sizes count in the scores.

    Returns:
        The layer, or if nothing merged in it before, one with the same content.
    """
    merged = layer if isinstance(layer, MergedKeys) else _as_merged(layer)
    batch, past = len(merged.keys), merged.keys.shape[-2] - number
    for name, way in zip(("keys", "values"), ways(plan, rotary), strict=True):
        old, new = getattr(merged, name).split([past, number], -2)
        setattr(merged, name, torch.cat([old, reduced(new, place, plan.num_tokens, way)], -2))
    old, new = merged.sizes.split([past, number], 1)
    new = within(new[..., None], place, plan.num_tokens, lambda _: plan.sizes.expand(batch, -1)[..., None].to(new.dtype))
    merged.sizes, merged.sized = torch.cat([old, new[..., 0]], 1), sized
    merged.hidden += plan.num_tokens - plan.num_groups
    return merged


def mask_for(layer: Any, mask: Any, number: int) -> Any:  # noqa: ANN401
    """The mask of an attention over the keys of a layer, merged or not, and ``number`` new tokens.

    A model makes one mask for all layers, whose numbers of keys differ where not all merge alike. No old key is masked, so that
    only the mask's columns of the new tokens are used.

    Args:
        layer: before the new keys are appended.
        mask: None, or (B or 1, heads or 1, number, keys), bool or added to the scores; of any number of keys.
        number: of new tokens.

    Returns:
        (B, heads or 1, number, K + number) numbers to add to the scores, the logarithms of sizes among them; ``mask`` itself
        where it fits and sizes do not count.
    """
    keys: Tensor = layer.keys
    sized = isinstance(layer, MergedKeys) and layer.sized
    if not sized and (not isinstance(mask, Tensor) or mask.shape[-1] == keys.shape[-2] + number):
        return mask
    new = torch.ones(1, 1, number, number, dtype=torch.bool, device=keys.device).tril() if mask is None else mask[..., -number:]
    if new.dtype == torch.bool:
        new = torch.zeros(new.shape, dtype=keys.dtype, device=keys.device).masked_fill(~new, -torch.inf)
    old = layer.sizes.log().to(new.dtype) if sized else new.new_zeros(len(keys), keys.shape[-2])
    old = old[:, None, None].expand(-1, new.shape[1], number, -1)
    return torch.cat([old, new.expand(len(old), -1, -1, -1)], -1)


def check_cache(cached: Cached, held: Any) -> None:  # noqa: ANN401
    """Refuse a cache whose layers do not simply grow.

    Raises:
        ValueError: with the class that was passed.
    """
    layers = getattr(held, "layers", None)
    kind = type(held)
    if layers is not None:
        kind = type(layers[cached.index]) if cached.index < len(layers) else held.layer_class_to_replicate
    if not issubclass(kind, MergedKeys) and kind.__name__ not in cached.layers:
        possible = ", ".join(sorted(cached.layers))
        raise ValueError(f"expected a cache with layers of class {possible}, in which keys can merge; got {kind.__name__}")
    if getattr(held, "offloading", False):
        raise ValueError("expected a cache that stays on the device, got one that is offloaded; its keys cannot merge")


def check_options(options: Options, *, causal: bool) -> None:
    """Refuse options that a causal model has no use for, and one that no other model has.

    Raises:
        ValueError: with the option's name.
    """
    if not causal:
        if options.whole is not None:
            raise ValueError(f"expected whole=None for a model without a cache, got {options.whole}")
        return
    if options.gate != "none":
        raise ValueError("expected gate='none' for a causal model, since merging in a cache pays in later calls; got a gate")
    if "cfg" in tuple(options.share or ()):
        raise ValueError("expected no share='cfg' for a causal model, whose rows are texts; got it")
    if options.rotary == "before":
        raise ValueError(
            "expected rotary 'values', 'pick' or 'mean' for a causal model, whose cached keys are rotated already; got 'before'"
        )


@cache
def _merged_class(kind: Any) -> Any:  # noqa: ANN401
    return new_class(f"Merged{kind.__name__}", (MergedKeys, kind))


def _as_merged(layer: Any) -> MergedKeys:  # noqa: ANN401
    """A layer with the same content, which merges from now on."""
    merged: MergedKeys = object.__new__(_merged_class(type(layer)))
    vars(merged).update(vars(layer))
    merged.sizes = torch.ones(len(layer.keys), layer.keys.shape[-2], device=layer.keys.device)
    merged.hidden, merged.sized, merged.expected = 0, False, False
    return merged
