"""Diffusion transformers of diffusers that make videos, and in which text and video attend in one self-attention."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from . import Layout, Model, Rows, Site, listed, parts, register_family
from .image import JOINT, patches


def by_frames(size: int, frames: int) -> Callable[[Mapping[str, Any]], Layout]:
    """CogVideoX: (B, f, C, h, w), cut into patches of some frames; text is in front."""

    def layout(arguments: Mapping[str, Any]) -> Layout:
        _, f, _, h, w = arguments["hidden_states"].shape
        grid = -(-f // frames), h // size, w // size
        return Layout(grid, start=-grid[0] * grid[1] * grid[2])

    return layout


def behind_text(*sizes: int) -> Callable[[Mapping[str, Any]], Layout]:
    """As ``patches``, with the text in front."""
    layout = patches(*sizes)

    def at_the_end(arguments: Mapping[str, Any]) -> Layout:
        place = layout(arguments)
        return Layout(place.grid, start=-place.number)

    return at_the_end


def after_first(*sizes: int) -> Callable[[Mapping[str, Any]], Layout]:
    """As ``patches``, without the first frame, which is clean; text is behind."""
    layout = patches(*sizes)

    def later(arguments: Mapping[str, Any]) -> Layout:
        frames, height, width = layout(arguments).grid
        if frames == 1:
            raise ValueError("expected a video of several frames, since the first one is clean, got one")
        return Layout((frames - 1, height, width), start=height * width)

    return later


def after_history(*sizes: int) -> Callable[[Mapping[str, Any]], Layout]:
    """FramePack: as ``patches``, behind the tokens of earlier frames, which are larger the longer ago; text is behind."""
    layout = patches(*sizes)
    past = {"latents_clean": (1, 2, 2), "latents_history_2x": (2, 4, 4), "latents_history_4x": (4, 8, 8)}

    def later(arguments: Mapping[str, Any]) -> Layout:
        start = 0
        for name, (t, y, x) in past.items():
            if arguments.get(name) is not None and arguments.get(f"indices_{name}") is not None:
                f, h, w = arguments[name].shape[2:]
                start += -(-f // t) * -(-h // y) * -(-w // x)
        return Layout(layout(arguments).grid, start)

    return later


@register_family("CogVideoXTransformer3DModel", "ConsisIDTransformer3DModel", channels=2)
def cogvideox(model: Model) -> Iterable[Site]:
    """CogVideoX: two streams for the attention, and a feed-forward over both; positions are absolute, or a table of rotations."""
    config, rotary = model.config, model.config.use_rotary_positional_embeddings
    layout = by_frames(config.patch_size, getattr(config, "patch_size_t", None) or 1)
    for name, block in listed(model, "transformer_blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn1"], feed_forward=["ff"]),
            frame=model, layout=layout, reads=("hidden_states",),
            rows=(Rows("image_rotary_emb", 0),) if rotary else (),
            key_value=None, joint=True, rotary=rotary, without=JOINT,
        )  # fmt: skip


@register_family("EasyAnimateTransformer3DModel")
def easyanimate(model: Model) -> Iterable[Site]:
    """EasyAnimate: two streams, which share their feed-forward in later blocks."""
    layout = behind_text(1, model.config.patch_size, model.config.patch_size)
    for name, block in listed(model, "transformer_blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn1"], feed_forward=["ff"]),
            frame=model, layout=layout, reads=("hidden_states",), rows=(Rows("image_rotary_emb", 0),),
            key_value=None, joint=True, rotary=True, without=JOINT,
            first_run=frozenset({"feed_forward"} if block.txt_ff is None else ()),
        )  # fmt: skip


@register_family("HunyuanVideoTransformer3DModel", "HunyuanVideoFramepackTransformer3DModel", guidance="calls")
def hunyuan_video(model: Model) -> Iterable[Site]:
    """HunyuanVideo: blocks of two streams, then blocks with one sequence; a first frame may be given, or many (FramePack)."""
    config, layout = model.config, patches
    if hasattr(model, "clean_x_embedder"):
        layout = after_history
    elif config.image_condition_type == "token_replace":
        layout = after_first
    layout = layout(config.patch_size_t, config.patch_size, config.patch_size)
    reads = ("hidden_states", *(("latents_clean",) if hasattr(model, "clean_x_embedder") else ()))
    mask = Rows("attention_mask", 3, batched=True)
    for name, block in listed(model, "transformer_blocks", "single_transformer_blocks"):
        is_double = name.startswith("transformer")
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn"], feed_forward=["ff", "proj_mlp"]),
            frame=model, layout=layout, reads=reads,
            rows=(Rows("image_rotary_emb", 0), *([Rows("freqs_cis", 0)] if is_double else []), mask),
            key_value=None, joint=True, rotary=True, without=JOINT,
        )  # fmt: skip


@register_family("HunyuanVideo15Transformer3DModel", guidance="calls")
def hunyuan_video_15(model: Model) -> Iterable[Site]:
    """HunyuanVideo 1.5: two streams; the mask is the text's, however long the video is."""
    layout = patches(model.config.patch_size_t, model.config.patch_size, model.config.patch_size)
    for name, block in listed(model, "transformer_blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn"], feed_forward=["ff"]),
            frame=model, layout=layout, reads=("hidden_states",),
            rows=(Rows("image_rotary_emb", 0), Rows("freqs_cis", 0)),
            passes=frozenset({"encoder_hidden_states", "attention_mask"}),
            key_value=None, joint=True, rotary=True, without=JOINT,
        )  # fmt: skip


@register_family("MotifVideoTransformer3DModel", guidance="calls")
def motif_video(model: Model) -> Iterable[Site]:
    """Motif-Video: HunyuanVideo's blocks, where the video may attend to the text once more."""
    layout = patches(model.config.patch_size_t, model.config.patch_size, model.config.patch_size)
    rows = Rows("image_rotary_emb", 0), Rows("attention_mask", 3, batched=True)
    for name, block in listed(model, "transformer_blocks", "single_transformer_blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn"], feed_forward=["ff", "proj_mlp"]),
            frame=model, layout=layout, reads=("hidden_states",), rows=rows,
            key_value=None, joint=True, rotary=True, without=JOINT,
        )  # fmt: skip


@register_family("MochiTransformer3DModel", time="1000-t")
def mochi(model: Model) -> Iterable[Site]:
    """Mochi: two streams, attention row by row, since each row keeps the valid tokens of its text alone."""
    layout = patches(1, model.config.patch_size, model.config.patch_size)
    for name, block in listed(model, "transformer_blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn1"], feed_forward=["ff"]),
            frame=model, layout=layout, reads=("hidden_states",), rows=(Rows("image_rotary_emb", 0),),
            passes=frozenset({"encoder_hidden_states", "encoder_attention_mask", "attention_mask"}),
            key_value=None, joint=True, rotary=True, without=JOINT,
        )  # fmt: skip
