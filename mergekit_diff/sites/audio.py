"""Diffusion transformers of diffusers that make audio: their tokens are a line."""

from collections.abc import Iterable, Mapping
from typing import Any

from . import Layout, Model, Rows, Site, listed, parts, register_family
from .unet import block_roles


def by_length(arguments: Mapping[str, Any]) -> Layout:
    """The tokens of (B, C, n) ``hidden_states``; those of the timestep and of the length are in front."""
    number = arguments["hidden_states"].shape[-1]
    return Layout((number,), start=-number)


@register_family("StableAudioDiTModel", channels=1)
def stable_audio(model: Model) -> Iterable[Site]:
    """Stable Audio: a line of tokens behind a global one."""
    for name, block in listed(model, "transformer_blocks"):
        yield Site(
            name,
            block,
            roles=block_roles(block),
            frame=model, layout=by_length, reads=("hidden_states",),
            rows=(Rows("rotary_embedding", 0), Rows("rotary_emb", 0)),
            passes=frozenset({"encoder_hidden_states", "encoder_attention_mask"}),
            key_value=None, rotary=True,
        )  # fmt: skip


@register_family("StableAudio3DiTModel", time="t/1000", channels=1)
def stable_audio_3(model: Model) -> Iterable[Site]:
    """Stable Audio 3: differential attention of a line behind memory tokens, with one map for queries, keys and values."""
    size = model.config.patch_size

    def layout(arguments: Mapping[str, Any]) -> Layout:
        number = arguments["hidden_states"].shape[-1] // size
        return Layout((number,), start=-number)

    for name, block in listed(model, "transformer_blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["self_attn"], cross_attention=["cross_attn"], feed_forward=["ff"]),
            frame=model, layout=layout, reads=("hidden_states",),
            rows=(Rows("rope", 0), Rows("local_seq", 1, batched=True)),
            passes=frozenset({"context", "context_mask"}), key_value=None, rotary=True,
        )  # fmt: skip


@register_family("MiniMaxMusic3Transformer1DModel", guidance="calls", channels=1)
def minimax_music(model: Model) -> Iterable[Site]:
    """MiniMax Music 3: a line of tokens behind one for the timestep."""
    without = {"cross_attention": "what is sung is added to its tokens"}
    for name, block in listed(model, "transformer_blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn"], feed_forward=["ff_in", "ff_out"]),
            frame=model, layout=by_length, reads=("hidden_states",), rows=(Rows("rotary_emb", 0),),
            key_value=None, rotary=True, without=without,
        )  # fmt: skip


@register_family("LongCatAudioDiTTransformer", time="t/1000", guidance="calls")
def longcat_audio(model: Model) -> Iterable[Site]:
    """LongCat-Audio: (B, n, C) in and out."""
    without = {"cross_attention": "the text's mask has the name of the tokens' own"}

    def layout(arguments: Mapping[str, Any]) -> Layout:
        return Layout((arguments["hidden_states"].shape[1],))

    masks = tuple(Rows(name, 1, batched=True) for name in ("mask", "attention_mask"))
    for name, block in listed(model, "blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["self_attn"], cross_attention=["cross_attn"], feed_forward=["ffn"]),
            frame=model, layout=layout, reads=("hidden_states",),
            rows=(Rows("rope", 0), Rows("audio_rotary_emb", 0), *masks),
            passes=frozenset({"cond", "cond_mask", "cond_rope"}), key_value=None, rotary=True, without=without,
        )  # fmt: skip


@register_family("AceStepTransformer1DModel", time="t/1000", guidance="cond-uncond")
def ace_step(model: Model) -> Iterable[Site]:
    """ACE-Step: a line of patches; in every other block a token attends to its neighbours alone."""
    size = model.config.patch_size
    masks = Rows("attention_mask", 2, batched=True), Rows("attention_mask", 3, batched=True)

    def layout(arguments: Mapping[str, Any]) -> Layout:
        return Layout((-(-arguments["hidden_states"].shape[1] // size),))

    for name, block in listed(model, "layers"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["self_attn"], cross_attention=["cross_attn"], feed_forward=["mlp"]),
            frame=model, layout=layout, reads=("hidden_states",),
            rows=(Rows("position_embeddings", 0), Rows("image_rotary_emb", 0), *masks),
            key_value=None, rotary=True,
        )  # fmt: skip
