"""Merge tokens in a model: ``with merging(pipe, "retom", ratio=0.5) as session: ...``."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .options import Options
from .session import MergeSession
from .target import PRESET, preset_of, strategy_of


def merging(
    target: Any,  # noqa: ANN401
    strategy: Any,  # noqa: ANN401
    *,
    roles: Iterable[str] | None = None,
    refresh: int | Sequence[int] | None = None,
    levels: int | None = None,
    share: Iterable[str] | None = None,
    gate: str | Mapping[str, Mapping[str, Any]] = "none",
    proportional: bool | None = None,
    rotary: str | None = None,
    seed: int = 0,
    strict: bool = False,
    whole: tuple[int, int] | None = None,
    span: int = 1,
    **settings: Any,  # noqa: ANN401
) -> MergeSession:
    """Merge tokens inside a ``with`` block; leaving it, also by an exception, restores the model to the bit.

    Where an option is None, the strategy's own default applies.

    Args:
        target: a diffusers pipeline, its denoiser, a ControlNet, a language model, or a model of a registered family.
        strategy: a name, a mapping with ``name``, or a strategy; or "preset", which is what was found best for the model's
            family, and whose options and settings all arguments override.
        roles: which parts of a block run on merged tokens: "self_attention", "key_value", "cross_attention", "feed_forward"; or
            "block", all of it.
        refresh: the number of steps that a plan is used for, or the steps at which plans are made, such as ``(0, 1, 2, 4, 8)``.
        levels: merge on this many of the finest grids.
        share: "cfg": one plan for both halves of guidance; "grid": one plan a step for all sites of a grid; both; or ``()``.
            Where "cfg" is only the strategy's default, it holds if the pipeline says that it guides.
        gate: "none"; "auto" to skip sites where merging would cost more time than it saves; or what ``gates()`` of an earlier
            session returned.
        proportional: whether a merged key counts as often in self-attention as it has tokens; where neither this nor the strategy
            says, only where text attends beside the image.
        rotary: how "key_value" merges keys that were rotated by their positions, as in :class:`mergekit_diff.options.Options`.
        seed: of all noise.
        strict: raise where a session that merged nothing would warn.
        span: with the role "block", how many consecutive blocks run on the same merged tokens.
        whole: of a causal language model, how many of the first tokens of a text and of the newest tokens of each call stay
            whole; None is (4, 16).
        **settings: the strategy's own, such as ``ratio=0.5``.

    Returns:
        The session; the model is merged from now on.

    Raises:
        ValueError: an unknown name or option, a value out of range, a model with no known sites; in one line.
        RuntimeError: another session merges in the model, or it was compiled before; with ``strict``, nothing was merged.

    >>> import torch
    >>> from mergekit_diff import Site, register_family
    >>> class Tiny(torch.nn.Sequential):
    ...     pass
    >>> @register_family("Tiny")
    ... def sites(model):
    ...     yield Site("0", block=model[0], roles={"feed_forward": model[0][0]})
    >>> model = Tiny(torch.nn.Sequential(torch.nn.Linear(8, 8)))
    >>> with merging(model, "retom", ratio=0.5, roles="feed_forward") as session:
    ...     out = model(torch.randn(2, 64, 8))
    >>> session.report().tokens
    (64, 32)
    """
    options = Options(roles, refresh, levels, share, gate, proportional, rotary, seed, strict, whole, span)
    if strategy == PRESET:
        strategy, found = preset_of(target)
        options = replace(options, **{name: value for name, value in found.items() if getattr(options, name) is None})
    return MergeSession(target, strategy_of(strategy, settings), options)


attach = merging
"""The same function by the name that reads better without ``with``: merge tokens until ``session.detach()``."""
