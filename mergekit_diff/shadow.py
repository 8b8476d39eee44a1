"""A second run of a block, without merging, with whose output the model goes on: what merging changes in one layer alone."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .arguments import Signature
from .beside import reusing_hooks
from .hooks import SiteHooks
from .rows import inside

Compare = Callable[[str, Tensor, Tensor, Tensor], None]
"""Called with a site's name and the (B, N, C) tokens of its grid: before its block, after it with merging, and without."""


def check_shadow(span: int, is_causal: bool, is_compiled: bool, is_shadowed: bool) -> None:
    """Refuse a session whose blocks cannot run a second time.

    Args:
        span: how many blocks run on the same merged tokens.
        is_causal: whether keys merge in a cache.
        is_compiled: whether it is compiled.
        is_shadowed: whether its blocks run twice already.

    Raises:
        RuntimeError: says why, in one line.
    """
    reasons = {
        f"span={span}": span > 1,
        "a cache of keys": is_causal,
        "a compiled one": is_compiled,
        "one that does so already": is_shadowed,
    }
    if (reason := next((words for words, holds in reasons.items() if holds), None)) is not None:
        raise RuntimeError(f"expected a session whose blocks merge one by one, run eagerly and only once, got {reason}")


class Shadow:
    """Runs a block again on its whole tokens wherever it merged, and returns that.

    Args:
        hooks: of its site, already attached.
        compare: gets both outputs.
    """

    def __init__(self, hooks: SiteHooks, compare: Compare) -> None:
        self.hooks, self.compare = hooks, compare
        self.signature = Signature(hooks.site.block)
        self._inputs: tuple[tuple[Any, ...], dict[str, Any]] = (), {}

    def attach(self) -> list[RemovableHandle]:
        """Register the hooks, before and after those of the site; the handles remove them."""
        block = self.hooks.site.block
        before = block.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True)
        return [before, block.register_forward_hook(self._after)]

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._inputs = args, kwargs

    def _after(self, module: nn.Module, _: tuple[Any, ...], merged: Any) -> Any:  # noqa: ANN401
        (args, kwargs), self._inputs = self._inputs, ((), {})
        state, site = self.hooks.state, self.hooks.site
        if state.plan is None and state.key_value is None:
            return merged
        if names := reusing_hooks(module):
            raise RuntimeError(f"{site.name}: expected a block that can run twice in a step, got one with {', '.join(names)}")
        x = site.tokens(self.signature.read(args, kwargs)[site.argument or self.signature.first])
        state.begin(None, None, state.place, x)
        whole = module.forward(*args, **kwargs)
        outputs = (site.tokens(each[site.output] if isinstance(each, tuple) else each) for each in (merged, whole))
        self.compare(site.name, *(inside(each, state.place) for each in (x, *outputs)))
        return whole
