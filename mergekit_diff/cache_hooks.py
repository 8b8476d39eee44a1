"""The hooks of a site whose keys and values merge in a cache: plan before the block, merge after its attention."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .arguments import Arguments, Signature
from .caches import MergedKeys, check_cache, mask_for, merged_newest
from .plan import Plan
from .sites import Cached, Layout, Site


class CacheHooks:
    """Merges what one block leaves in the cache.

    Args:
        site: where.
        choose: called with the block's (B, n, C) input and the layout of the tokens that may merge; returns two plans, of which
            the second is that of "key_value"; None where nothing is merged.
        proportional: whether the logarithms of the groups' sizes are added to the scores of later calls.
        rotary: how keys and values merge, as in :func:`mergekit_diff.scores.ways`.
        whole: how many of the first tokens of a text and of the newest tokens of a call stay whole.
        note: called with a reason why nothing merges.
    """

    def __init__(
        self,
        site: Site,
        choose: Callable[[Tensor, Layout], tuple[Plan | None, Plan | None]],
        *,
        proportional: bool = True,
        rotary: str = "values",
        whole: tuple[int, int],
        note: Callable[[str], None],
    ) -> None:
        assert site.cache is not None
        self.site, self.cached, self.choose, self.note = site, site.cache, choose, note
        self.proportional, self.rotary, self.whole = proportional, rotary, whole
        self._plan: Plan | None = None
        self._place = Layout(())

    def attach(self) -> list[RemovableHandle]:
        """Register the hooks; the handles remove them.

        Raises:
            ValueError: the model's attention takes no log sizes.
        """
        self._check_backend()
        block, (attention,) = self.site.block, self.site.parts("key_value")
        before, after = (partial(hook, Signature(attention)) for hook in (self._before_attention, self._after_attention))
        return [
            block.register_forward_pre_hook(partial(self._before_block, Signature(block)), with_kwargs=True),
            attention.register_forward_pre_hook(before, with_kwargs=True),
            attention.register_forward_hook(after, with_kwargs=True),
        ]

    def _before_block(self, signature: Signature, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = signature.read(args, kwargs)
        x: Tensor = arguments[signature.first]
        held, number, self._plan = _cache_in(arguments, self.cached), x.shape[1], None
        if held is None:
            self.note("no cache was passed (use_cache=False), and keys merge only there")
        elif number > 1:
            check_cache(self.cached, held)
            first, newest = self.whole
            start = max(first - held.get_seq_length(self.cached.index), 0)
            if number - start - newest < 2:
                self.note(f"too few tokens in a call: the {first} first and the {newest} newest stay whole")
                return
            self._place = Layout((number - start - newest,), start)
            self._plan = self.choose(x, self._place)[1]

    def _before_attention(
        self, signature: Signature, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Arguments | None:
        arguments = signature.read(args, kwargs)
        layer = _layer_in(arguments, self.cached)
        if layer is None:
            return None
        if isinstance(layer, MergedKeys):
            self._check_backend()
            layer.sized, layer.expected = self.proportional, True
        x, name = arguments[signature.first], self.site.key_bias
        assert name is not None
        old = arguments.get(name)
        new = mask_for(layer, old, x.shape[1])
        return None if new is old else signature.place(args, kwargs, {name: new})

    def _after_attention(
        self,
        signature: Signature,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,  # noqa: ANN401
    ) -> None:
        arguments, plan = signature.read(args, kwargs), self._plan
        held, self._plan = _cache_in(arguments, self.cached), None
        if plan is None or held is None:
            return
        layer, number = held.layers[self.cached.index], arguments[signature.first].shape[1]
        merged = merged_newest(layer, plan, self._place, number, self.rotary, sized=self.proportional)
        held.layers[self.cached.index] = merged

    def _check_backend(self) -> None:
        backend = self.cached.backend()
        if self.proportional and backend not in self.cached.backends:
            possible = " or ".join(self.cached.backends)
            raise ValueError(
                f"expected an attention of {possible}, to which log sizes can be added, got {backend}; or proportional=False"
            )


def _cache_in(arguments: dict[str, Any], cached: Cached) -> Any | None:  # noqa: ANN401
    """The cache among a call's arguments, under whichever of its names."""
    return next((arguments[name] for name in cached.arguments if arguments.get(name) is not None), None)


def _layer_in(arguments: dict[str, Any], cached: Cached) -> Any | None:  # noqa: ANN401
    """A block's own layer of that cache, if it is of a class that merges and holds keys."""
    layers = getattr(_cache_in(arguments, cached), "layers", ())
    layer: Any = layers[cached.index] if cached.index < len(layers) else None
    merges = isinstance(layer, MergedKeys) or type(layer).__name__ in cached.layers
    return layer if merges and layer.get_seq_length() else None
