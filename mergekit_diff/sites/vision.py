"""Vision transformers of transformers: image encoders that attend over patches and a few tokens of their own."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from . import Layout, Model, Site, listed, parts, register_family

BESIDE = {"cross_attention": "class tokens and patches attend in one self-attention"}
BETWEEN = {"block": "the model returns the states between its blocks, which would be merged tokens"}
CLASSES = (
    *(f"{kind}{task}" for kind in ("ViT", "DeiT") for task in ("Model", "ForImageClassification", "ForMaskedImageModeling")),
    *(f"Dinov2{kind}{task}" for kind in ("", "WithRegisters") for task in ("Model", "ForImageClassification", "Backbone")),
    "DeiTForImageClassificationWithTeacher",
    "CLIPVisionModel",
    "CLIPVisionModelWithProjection",
)


def by_patches(model: Model, encoder: Model) -> Callable[[Mapping[str, Any]], Layout]:
    """Reads the grid from ``pixel_values``; class, distillation and register tokens are in front of the patches."""

    def layout(arguments: Mapping[str, Any]) -> Layout:
        if model.training and torch.is_grad_enabled() and model.is_gradient_checkpointing:
            raise ValueError("expected no gradient checkpointing, which here runs parts of blocks again without their plans")
        size = encoder.config.patch_size
        rows, columns = (size, size) if isinstance(size, int) else size
        height, width = arguments["pixel_values"].shape[-2:]
        grid = height // rows, width // columns
        return Layout(grid, start=-grid[0] * grid[1])

    return layout


@register_family(*CLASSES, guidance="none", channels=0)
def vision(model: Model) -> Iterable[Site]:
    """ViT, DeiT, DINOv2 with or without registers, and the vision tower of CLIP: one stream, absolute positions."""
    implementation = model.config._attn_implementation
    if implementation != "sdpa":
        raise ValueError(f"expected attention 'sdpa', got '{implementation}'; set_attn_implementation('sdpa') changes it")
    prefix, encoder = _encoder(model)
    shows_states = model.config.output_hidden_states or hasattr(model, "out_features")
    layout = by_patches(model, encoder)
    for name, block in _blocks(encoder):
        attention = _attention(block)
        yield Site(
            prefix + name,
            block,
            roles={"self_attention": attention} | parts(block, feed_forward=["mlp", "intermediate"]),
            frame=model, layout=layout, reads=("pixel_values",), whole_refuses=frozenset({"output_hidden_states"}),
            key_value=None, key_value_maps=frozenset(_present(attention, "k_proj", "v_proj", "key", "value")), joint=True,
            without=BESIDE | BETWEEN if shows_states else BESIDE,
            normalize=getattr(block, *_present(block, "layernorm_before", "norm1", "layer_norm1")),
        )  # fmt: skip


def _attention(block: Model) -> Model:
    """The attention of a block, without the map of its output where releases of transformers have that apart."""
    outer = getattr(block, *_present(block, "attention", "self_attn"))
    return getattr(outer, "attention", outer)


def _present(module: Model, *names: str) -> list[str]:
    """Those of some names that a module has."""
    return [name for name in names if hasattr(module, name)]


def _encoder(model: Model) -> tuple[str, Model]:
    """The part of a model that embeds patches and runs the blocks, and what its modules' names begin with."""
    for name, module in model.named_modules():
        if hasattr(module, "embeddings"):
            return f"{name}." if name else "", module
    return "", model


def _blocks(encoder: Model) -> Iterable[tuple[str, Model]]:
    """The blocks, which lie in the encoder itself or in a part of it; releases of transformers differ."""
    for owner, prefix in ((encoder, ""), (getattr(encoder, "encoder", None), "encoder.")):
        for name in ("layers", "layer"):
            if hasattr(owner, name):
                return [(prefix + each, block) for each, block in listed(owner, name)]
    return []
