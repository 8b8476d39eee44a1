"""More image transformers of diffusers whose blocks hold image and text as two streams, or the text as keys alone."""

from collections.abc import Iterable, Mapping
from typing import Any

from . import Layout, Model, Rows, Site, listed, parts, register_family
from .image import JOINT, by_ids, by_shapes, patches
from .image_joint import behind_text

EXPERTS = dict.fromkeys(("feed_forward", "block"), "its experts choose among all tokens, so that fewer are other choices")


@register_family("GlmImageTransformer2DModel", guidance="calls")
def glm_image(model: Model) -> Iterable[Site]:
    """GLM-Image: one feed-forward for the image and then the text; keys of reference images would be kept merged."""
    layout = behind_text(model.config.patch_size)

    def without_writing(arguments: Mapping[str, Any]) -> Layout:
        caches = arguments.get("kv_caches")
        if caches is not None and caches[0].mode == "write":
            raise ValueError("GLM-Image: expected no reference images, got a cache for their keys")
        return layout(arguments)

    for name, block in listed(model, "transformer_blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn1"], feed_forward=["ff"]),
            frame=model, layout=without_writing, reads=("hidden_states", "kv_caches"),
            rows=(Rows("image_rotary_emb", 0),),
            passes=frozenset({"encoder_hidden_states", "attention_mask"}), first_run=frozenset({"feed_forward"}),
            key_value=None, more_keys=True, joint=True, rotary=True, without=JOINT,
        )  # fmt: skip


@register_family("JoyImageEditTransformer3DModel", guidance="calls", channels=2)
def joyimage(model: Model) -> Iterable[Site]:
    """JoyImage-Edit: the image, the images to go by, and the text behind them."""
    for name, block in listed(model, "double_blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn"], feed_forward=["img_mlp"]),
            frame=model, layout=patches(*model.config.patch_size), reads=("hidden_states",),
            rows=(Rows("image_rotary_emb", 0, path=(0,)),),
            key_value=None, joint=True, rotary=True, without=JOINT,
        )  # fmt: skip


@register_family("NucleusMoEImageTransformer2DModel", time="t/1000", guidance="calls")
def nucleus(model: Model) -> Iterable[Site]:
    """Nucleus-Image: the image alone, whose queries also meet keys of the text, behind; most blocks have experts."""
    masks = Rows("attention_mask", 1, batched=True), Rows("attention_kwargs", 1, batched=True)

    def in_front(arguments: Mapping[str, Any]) -> Layout:
        return Layout(by_shapes(arguments).grid, start=0)

    for name, block in listed(model, "transformer_blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn"], feed_forward=["img_mlp"]),
            frame=model, layout=in_front, reads=("img_shapes",),
            rows=(Rows("image_rotary_emb", 0, path=(0,)), *masks),
            key_value=None, more_keys=True, joint=True, rotary=True, without=JOINT | EXPERTS if block.moe_enabled else JOINT,
        )  # fmt: skip


@register_family("Flux3Transformer2DModel", time="t/1000", guidance="calls")
def flux3(model: Model) -> Iterable[Site]:
    """Flux 3: blocks for the image alone, then blocks of the text, the image and an image to go by."""

    def alone(arguments: Mapping[str, Any]) -> Layout:
        return Layout(by_ids(arguments).grid, start=0)

    def between(arguments: Mapping[str, Any]) -> Layout:
        layout, behind = by_ids(arguments), arguments.get("image_cond_hidden_states")
        return Layout(layout.grid, start=-layout.number - (0 if behind is None else behind.shape[1]))

    images = [(f"mode_blocks.image.{i}", block) for i, block in enumerate(model.mode_blocks["image"])]
    for layout, blocks in ((alone, images), (between, listed(model, "single_transformer_blocks"))):
        for name, block in blocks:
            yield Site(
                name,
                block,
                roles=parts(block, self_attention=["attn"], feed_forward=["ff"]),
                frame=model, layout=layout, reads=("img_ids", "image_cond_hidden_states"), output=1,
                rows=(Rows("image_rotary_emb", 0), Rows("temb_mod", 1, batched=True)),
                passes=frozenset({"encoder_hidden_states", "temb_mod_context"}),
                key_value=None, joint=layout is between, rotary=True, without=JOINT,
            )  # fmt: skip
