"""The first two arguments of ``merging``: which strategy a name means, and which modules of a pipeline are merged."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from .components import MergeStrategy
from .options import OPTIONS
from .registry import make, one_of, part_class
from .sites import families, family_of, is_known

DENOISERS = ("unet", "transformer", "transformer_2")
STAGES = ("unconditional_transformer", "prior_prior", "prior", "decoder")
"""Other names of parts of a pipeline, which are denoisers in some pipelines and in others not."""


PRESET = "preset"
"""Stands for the strategy and options that the model's family names."""


def preset_of(target: Any) -> tuple[dict[str, Any], dict[str, Any]]:  # noqa: ANN401
    """What "preset" means for a pipeline or a model: the strategy, as a mapping with ``name``, and the options of ``merging``.

    Raises:
        ValueError: the family of its (first) denoiser has none.
    """
    model = next(iter(denoisers_of(target)[1].values()))
    preset = family_of(model).preset
    if preset is None:
        known = ", ".join(sorted(name for name, family in families().items() if family.preset is not None))
        raise ValueError(f"expected a strategy for {type(model).__name__}, which has no preset; there is one for {known}")
    return {k: v for k, v in preset.items() if k not in OPTIONS}, {k: v for k, v in preset.items() if k in OPTIONS}


def strategy_of(spec: Any, settings: Mapping[str, Any]) -> MergeStrategy:  # noqa: ANN401
    """The strategy that ``spec`` means, with further settings.

    Raises:
        ValueError: an unknown name or setting; the message also lists the options of ``merging``.
    """
    if isinstance(spec, MergeStrategy):
        for name in settings:
            one_of(name, [*(f.name for f in dataclasses.fields(spec)), *OPTIONS], "option")
        return dataclasses.replace(spec, **settings)
    spec = {"name": spec} if isinstance(spec, str) else spec
    if not isinstance(spec, Mapping) or "name" not in spec:
        return make("strategy", spec)
    known = inspect.signature(part_class("strategy", str(spec["name"]))).parameters
    for name in settings:
        one_of(name, [*known, *OPTIONS], "option")
    return make("strategy", {**spec, **settings})


def denoisers_of(target: Any) -> tuple[Any, dict[str, nn.Module]]:  # noqa: ANN401
    """The pipeline, if ``target`` is one, and the modules whose sites are merged, by name; two if each denoises in its turn."""
    if isinstance(target, nn.Module):
        return None, {"": target}
    parts = {name: getattr(target, name, None) for name in (*DENOISERS, *STAGES)}
    denoisers = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
    denoisers = {name: part for name, part in denoisers.items() if name in DENOISERS or is_known(part)}
    if not denoisers:
        raise ValueError(f"expected a pipeline with a unet or transformer, or a module; got {type(target).__name__}")
    return target, denoisers


def is_compiled(model: nn.Module) -> bool:
    """Whether a module, or one inside it, was compiled, in any of torch's three ways."""
    return any(
        getattr(m, "_compiled_call_impl", None) is not None
        or "_orig_mod" in m._modules
        or hasattr(vars(m).get("forward"), "_torchdynamo_orig_callable")
        for m in model.modules()
    )
