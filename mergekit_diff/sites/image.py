"""Diffusion transformers of diffusers that make images."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from . import Layout, Model, Rows, Site, listed, parts, register_family
from .unet import block_roles

CONTROLS = frozenset({"controlnet_block_samples", "controlnet_single_block_samples"})
JOINT = {"cross_attention": "text and image attend in one self-attention"}
SKIP = {"block": "it begins by joining its tokens with those of an earlier block, so that it is not x + f(x)"}
GRID = "its feed-forward is a convolution over the grid"
CONVOLUTION = {"feed_forward": GRID, "block": GRID}


def patches(*sizes: int) -> Callable[[Mapping[str, Any]], Layout]:
    """Reads a grid from the last axes of ``hidden_states``, which are cut into patches; text may follow the grid's tokens."""

    def layout(arguments: Mapping[str, Any]) -> Layout:
        sides = arguments["hidden_states"].shape[-len(sizes) :]
        return Layout(tuple(side // size for side, size in zip(sides, sizes, strict=True)), start=0)

    return layout


def by_ids(arguments: Mapping[str, Any]) -> Layout:
    """Flux: every token's (image, row, column). Text is in front, tokens of reference images (Kontext) are behind."""
    ids = arguments["img_ids"]
    ids = ids[0] if ids.dim() == 3 else ids
    own = ids[ids[:, 0] == ids[0, 0], 1:3]
    height, width = (own.amax(0) - own.amin(0) + 1).tolist()
    return Layout((int(height), int(width)), start=-len(ids))


def by_shapes(arguments: Mapping[str, Any]) -> Layout:
    """Qwen-Image: (frames, height, width) of the image and of the reference images behind it; text is in front."""
    shapes = arguments["img_shapes"][0]
    images = [shapes] if isinstance(shapes[0], int) else list(shapes)
    frames, *sides = images[0]
    return Layout(tuple(sides) if frames == 1 else (frames, *sides), start=-sum(math.prod(shape) for shape in images))


def by_list(arguments: Mapping[str, Any]) -> Layout:
    """Z-Image: a (C, f, h, w) latent for each row; padding and text are behind, at any length of the text."""
    images, patch, frames = arguments["x"], arguments.get("patch_size", 2), arguments.get("f_patch_size", 1)
    if any(isinstance(image, list) or image.shape != images[0].shape for image in images):
        raise ValueError("Z-Image: expected one image of the same size in every row, got several images or sizes")
    _, f, h, w = images[0].shape
    sides = h // patch, w // patch
    return Layout(sides if f == frames else (f // frames, *sides), start=0)


def text_of_each(name: str) -> str:
    """Why single blocks stay apart where each has a text of its own in its sequence; nothing for the others."""
    return "each has a text of its own in its sequence" if name.startswith("single") else ""


@register_family("FluxTransformer2DModel", time="t/1000", guidance="calls")
def flux(model: Model) -> Iterable[Site]:
    """Flux and Kontext: blocks of two streams, then blocks in which text and image are one sequence."""
    for name, block in listed(model, "transformer_blocks", "single_transformer_blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn"], feed_forward=["ff", "proj_mlp"]),
            frame=model, layout=by_ids, reads=("img_ids",),
            rows=(Rows("image_rotary_emb", 0),), outputs=(0, 2), output=1, between=CONTROLS,
            key_value=None, joint=True, rotary=True, without=JOINT,
        )  # fmt: skip


@register_family("SD3Transformer2DModel")
def sd3(model: Model) -> Iterable[Site]:
    """Stable Diffusion 3, and 3.5, some of whose blocks attend twice: with the text, then among the image alone."""
    layout = patches(model.config.patch_size, model.config.patch_size)
    for name, block in listed(model, "transformer_blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn", "attn2"], feed_forward=["ff"]),
            frame=model, layout=layout, reads=("hidden_states",), output=1,
            key_value=None, joint=True, without=JOINT, between=frozenset({"block_controlnet_hidden_states"}),
        )  # fmt: skip


@register_family("DiTTransformer2DModel", guidance="cond-uncond")
@register_family("PixArtTransformer2DModel")
def pixart(model: Model) -> Iterable[Site]:
    """PixArt-alpha and -sigma: the blocks of a U-Net, on patches. DiT: the same without text."""
    layout = patches(model.config.patch_size, model.config.patch_size)
    for name, block in listed(model, "transformer_blocks"):
        yield Site(name, block, roles=block_roles(block), frame=model, layout=layout, reads=("hidden_states",))


@register_family("HunyuanDiT2DModel")
def hunyuan_dit(model: Model) -> Iterable[Site]:
    """HunyuanDiT: both attentions rotate the image's queries by one table; later blocks take the tokens of earlier ones."""
    layout = patches(model.config.patch_size, model.config.patch_size)
    for name, block in listed(model, "blocks"):
        yield Site(
            name,
            block,
            roles=block_roles(block),
            frame=model, layout=layout, reads=("hidden_states",), rows=(Rows("image_rotary_emb", 0),),
            key_value=None, rotary=True, without={} if block.skip_linear is None else SKIP,
            apart="later blocks take the tokens of earlier ones",
        )  # fmt: skip


@register_family("SanaTransformer2DModel")
def sana(model: Model) -> Iterable[Site]:
    """Sana: linear attention, so that merging saves its projections and no matrix of scores."""
    layout = patches(model.config.patch_size, model.config.patch_size)
    for name, block in listed(model, "transformer_blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn1"], cross_attention=["attn2"]),
            frame=model, layout=layout, reads=("hidden_states",), key_bias=None, without=CONVOLUTION,
        )  # fmt: skip


@register_family("QwenImageTransformer2DModel", time="t/1000", guidance="calls")
def qwen_image(model: Model) -> Iterable[Site]:
    """Qwen-Image and its editing models: two streams; the table of positions is a pair, for the image and for the text."""
    for name, block in listed(model, "transformer_blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn"], feed_forward=["img_mlp"]),
            frame=model, layout=by_shapes, reads=("img_shapes",),
            rows=(Rows("image_rotary_emb", 0, path=(0,)), Rows("modulate_index", 1, batched=True)), output=1,
            passes=frozenset({"encoder_hidden_states", "encoder_hidden_states_mask"}),
            key_value=None, joint=True, rotary=True, without=JOINT, between=CONTROLS,
        )  # fmt: skip


@register_family("ZImageTransformer2DModel", timestep="t", time="1-t/1000", guidance="cond-uncond")
def z_image(model: Model) -> Iterable[Site]:
    """Z-Image: blocks for the image alone, then blocks in which image and text are one sequence."""
    masks = Rows("attn_mask", 1, batched=True), Rows("attention_mask", 1, batched=True)
    for name, block in listed(model, "noise_refiner", "layers"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attention"], feed_forward=["feed_forward"]),
            frame=model, layout=by_list, reads=("x", "patch_size", "f_patch_size"),
            rows=(Rows("freqs_cis", 1, batched=True), *masks),
            key_value=None, joint=True, rotary=True, without=JOINT, between=CONTROLS,
        )  # fmt: skip
