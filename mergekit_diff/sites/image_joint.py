"""More diffusion transformers of diffusers in which text and image attend in one softmax."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from . import Layout, Model, Rows, Site, listed, parts, register_family
from .image import JOINT, by_ids, flux, patches, text_of_each

Reader = Callable[[Mapping[str, Any]], Layout]
FUSED = {"feed_forward": "attention and feed-forward are one module, which is the self_attention here"}


def behind_text(size: int) -> Reader:
    """As ``patches`` of (size, size), with the text in front."""
    layout = patches(size, size)

    def behind(arguments: Mapping[str, Any]) -> Layout:
        grid = layout(arguments).grid
        return Layout(grid, start=-math.prod(grid))

    return behind


def behind_captions(size: int) -> Reader:
    """Lumina 2: the image begins where a row's own caption ends."""
    layout = behind_text(size)

    def behind(arguments: Mapping[str, Any]) -> Layout:
        lengths = set(arguments["encoder_attention_mask"].sum(1).tolist())
        if len(lengths) > 1:
            numbers = ", ".join(str(int(length)) for length in sorted(lengths))
            raise ValueError(f"Lumina 2: expected captions of one length in a batch, got {numbers} tokens")
        return layout(arguments)

    return behind


def by_patches_or_sizes(size: int) -> Reader:
    """HiDream: (B, C, h, w), or (B, tokens, C) with the sides of every image; text and padding are behind."""
    layout = patches(size, size)

    def read(arguments: Mapping[str, Any]) -> Layout:
        if arguments["hidden_states"].dim() == 4:
            return layout(arguments)
        sizes = {tuple(int(side) for side in sides) for sides in arguments["img_sizes"]}
        if len(sizes) > 1:
            raise ValueError(f"HiDream: expected images of one size in a batch, got {sorted(sizes)}")
        return Layout(sizes.pop(), start=0)

    return read


def by_ids_without_cache(arguments: Mapping[str, Any]) -> Layout:
    """Flux 2: as ``by_ids``; with a cache the tokens of reference images are in front, or keys that no token here has."""
    if arguments.get("kv_cache_mode") is not None:
        mode = arguments["kv_cache_mode"]
        raise ValueError(f"Flux 2: expected reference images without a cache of their keys, got kv_cache_mode='{mode}'")
    return by_ids(arguments)


@register_family("Flux2Transformer2DModel", time="t/1000", guidance="calls")
def flux2(model: Model) -> Iterable[Site]:
    """Flux 2 and Klein: as Flux, but a single block is one module for attention and feed-forward."""
    for site in flux(model):
        without = site.without if site.parts("feed_forward") else {**site.without, **FUSED}
        yield replace(site, layout=by_ids_without_cache, reads=("img_ids", "kv_cache_mode"), without=without)


@register_family("ChromaTransformer2DModel", time="t/1000", guidance="calls")
def chroma(model: Model) -> Iterable[Site]:
    """Chroma: as Flux, with a mask, (B, tokens) for a block and (B, 1, tokens, tokens) for its attention."""
    masks = tuple(Rows("attention_mask", axis, batched=True) for axis in (1, 2, 3))
    for site in flux(model):
        yield replace(site, rows=(*site.rows, *masks))


@register_family("AuraFlowTransformer2DModel", time="t/1000")
def aura_flow(model: Model) -> Iterable[Site]:
    """AuraFlow: blocks of two streams, then blocks in which text and image are one sequence; positions are absolute."""
    layout = behind_text(model.config.patch_size)
    for name, block in listed(model, "joint_transformer_blocks", "single_transformer_blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn"], feed_forward=["ff"]),
            frame=model, layout=layout, reads=("hidden_states",), output=1,
            key_value=None, joint=True, without=JOINT,
        )  # fmt: skip


@register_family("Lumina2Transformer2DModel", time="1-t/1000", guidance="calls")
def lumina2(model: Model) -> Iterable[Site]:
    """Lumina 2: blocks for the image alone, then blocks in which text and image are one sequence."""
    layout = behind_captions(model.config.patch_size)
    for name, block in listed(model, "noise_refiner", "layers"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn"], feed_forward=["feed_forward"]),
            frame=model, layout=layout, reads=("hidden_states", "encoder_attention_mask"),
            rows=(Rows("image_rotary_emb", 1, batched=True),),
            key_value=None, joint=True, rotary=True, without=JOINT,
        )  # fmt: skip


@register_family("HiDreamImageTransformer2DModel", timestep="timesteps")
def hidream(model: Model) -> Iterable[Site]:
    """HiDream: as Flux with experts as feed-forward; an image that is not square is padded, and its keys are masked."""
    layout = by_patches_or_sizes(model.config.patch_size)
    for name, wrapper in listed(model, "double_stream_blocks", "single_stream_blocks"):
        yield Site(
            name,
            wrapper.block,
            roles=parts(wrapper.block, self_attention=["attn1"], feed_forward=["ff_i"]),
            frame=model, layout=layout, reads=("hidden_states", "img_sizes"),
            rows=(Rows("image_rotary_emb", 1, batched=True), Rows("hidden_states_masks", 1, batched=True)),
            passes=frozenset({"encoder_hidden_states", "norm_encoder_hidden_states"}),
            key_value=None, joint=True, rotary=True, without=JOINT, apart=text_of_each(name),
        )  # fmt: skip


@register_family("CogView4Transformer2DModel", guidance="calls")
@register_family("CogView3PlusTransformer2DModel")
def cogview(model: Model) -> Iterable[Site]:
    """CogView 3 Plus and 4: the feed-forward reads text and image at once (3 Plus), or first the image and then the text (4)."""
    layout, rotary = behind_text(model.config.patch_size), hasattr(model, "rope")
    for name, block in listed(model, "transformer_blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn1"], feed_forward=["ff"]),
            frame=model, layout=layout, reads=("hidden_states",), rows=(Rows("image_rotary_emb", 0),) if rotary else (),
            passes=frozenset({"encoder_hidden_states", "attention_mask"}),
            refuses=frozenset({"latent_attn_mask", "batch_flag"}),
            first_run=frozenset({"feed_forward"} if rotary else ()),
            key_value=None, joint=True, rotary=rotary, without=JOINT,
        )  # fmt: skip
