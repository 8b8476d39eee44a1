"""Further diffusion transformers of diffusers that make videos: with sound, a history, channels last, linear attention."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from . import Layout, Model, Rows, Site, listed, parts, register_family
from .video import between, noisy, noisy_patches
from .video_joint import behind_text

CONVOLUTION = dict.fromkeys(("feed_forward", "block"), "its feed-forward is a convolution over the grid")
LINEAR = {"key_value": "its attention is linear, without scores"}
TO_KEYS = frozenset({"to_key", "to_value"})
SOUND = (
    "audio_hidden_states", "audio_encoder_hidden_states", "temb_audio", "temb_ca_audio_scale_shift", "temb_ca_audio_gate",
    "audio_rotary_emb", "ca_audio_rotary_emb", "key_rotary_emb", "audio_encoder_attention_mask",
)  # fmt: skip


def channels_last(config: Any) -> Callable[[Mapping[str, Any]], Layout]:  # noqa: ANN401
    """Kandinsky: (B, f, h, w, C) in patches, without frames that are given: of another type, or by a mask as a channel."""

    def layout(arguments: Mapping[str, Any]) -> Layout:
        if arguments.get("sparse_params") is not None:
            raise ValueError("Kandinsky: expected 'sparse_params' to be None, since sparse attention orders tokens by blocks")
        x, types = arguments["hidden_states"], arguments.get("visual_token_type_ids")
        grid = tuple(side // size for side, size in zip(x.shape[1:4], config.patch_size, strict=True))
        if types is None and not config.visual_cond:
            return Layout(grid)
        marks = x[..., -1] if types is None else types
        given = marks.flatten(2) if marks.dim() > 2 else marks[..., None]
        clean = (given != 0).any(2).any(0).view(grid[0], -1).any(1).tolist()
        return Layout(grid) if all(clean) else between(grid, clean, in_front=True)

    return layout


def in_front(arguments: Mapping[str, Any]) -> Layout:
    """LTX 2: the numbers of frames, rows and columns; tokens of keyframes are behind."""
    grid = tuple(arguments[name] for name in ("num_frames", "height", "width"))
    return noisy(grid, arguments["timestep"], in_front=True)


@register_family("Kandinsky5Transformer3DModel", guidance="calls", channels=-1)
def kandinsky_5(model: Model) -> Iterable[Site]:
    """Kandinsky 5, for images, editing and videos."""
    layout = channels_last(model.config)
    for name, block in listed(model, "visual_transformer_blocks"):
        roles = ("self_attention", "cross_attention", "feed_forward")
        yield Site(
            name,
            block,
            roles=parts(block, **{role: [role] for role in roles}),
            frame=model, layout=layout, reads=("hidden_states", "sparse_params"),
            rows=(Rows("rope", 1, batched=True), Rows("rotary_emb", 1, batched=True)),
            passes=frozenset({"text_embed", "encoder_hidden_states"}),
            key_value=None, key_value_maps=TO_KEYS, rotary=True,
        )  # fmt: skip


@register_family("Kandinsky6Transformer3DModel", guidance="calls", channels=-1)
def kandinsky_6(model: Model) -> Iterable[Site]:
    """Kandinsky 6: a block for the video and one for the sound, which also attend to each other; the video's tokens merge."""
    layout = channels_last(model.config)
    for name, block in listed(model, "visual_transformer_blocks"):
        video = block.video_dec_block
        crossing = video.cross_attention, block.va_cross_attention
        yield Site(
            name,
            block,
            roles={
                "self_attention": video.self_attention, "cross_attention": crossing, "feed_forward": video.feed_forward,
                "block": block,
            },
            frame=model, layout=layout, reads=("hidden_states", "visual_token_type_ids"),
            rows=(Rows("vis_rope", 0), Rows("rotary_emb", 0), Rows("rope_q", 0)),
            passes=frozenset({"aud", "text_v", "text_a", "aud_rope", "encoder_hidden_states", "rope_kv", "attn_mask"}),
            key_value=None, key_value_maps=TO_KEYS, rotary=True, read_by=(block.av_cross_attention,),
        )  # fmt: skip


@register_family("LTX2VideoTransformer3DModel")
def ltx_2(model: Model) -> Iterable[Site]:
    """LTX 2: two streams, for video and sound, which also attend to each other; the video's tokens merge."""
    axis = 2 if model.config.rope_type == "split" else 1
    tables = tuple(Rows(name, axis, batched=True) for name in ("video_rotary_emb", "ca_video_rotary_emb", "query_rotary_emb"))
    times = tuple(Rows(name, 1, batched=True) for name in ("temb", "temb_ca_scale_shift", "temb_ca_gate"))
    for name, block in listed(model, "transformer_blocks"):
        crossing = ["attn2", "audio_to_video_attn"]
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn1"], cross_attention=crossing, feed_forward=["ff"]),
            frame=model, layout=in_front, reads=("num_frames", "height", "width", "timestep"),
            rows=(*tables, *times), passes=frozenset({"encoder_hidden_states", "encoder_attention_mask", *SOUND}),
            key_value=None, rotary=True, read_by=(block.video_to_audio_attn,),
        )  # fmt: skip


@register_family("HeliosTransformer3DModel", guidance="calls")
def helios(model: Model) -> Iterable[Site]:
    """Helios: Wan behind the tokens of earlier frames, which its blocks find by counting from the end."""
    counted = "it finds earlier frames by counting the tokens of this one"
    config, without = model.config, {"block": counted}
    if config.is_amplify_history:
        without["self_attention"] = counted
    layout = behind_text(*config.patch_size)
    for name, block in listed(model, "blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn1"], cross_attention=["attn2"], feed_forward=["ffn"]),
            frame=model, layout=layout, reads=("hidden_states",), rows=(Rows("rotary_emb", 1, batched=True),),
            key_value=None, rotary=True, without=without,
        )  # fmt: skip


@register_family("AnyFlowTransformer3DModel", channels=2)
def anyflow(model: Model) -> Iterable[Site]:
    """AnyFlow: Wan, called with (B, f, C, h, w) and a timestep for every frame."""
    _, *size = model.config.patch_size

    def layout(arguments: Mapping[str, Any]) -> Layout:
        frames, _, height, width = arguments["hidden_states"].shape[1:]
        return noisy((frames, height // size[0], width // size[1]), arguments["timestep"])

    for name, block in listed(model, "blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn1"], cross_attention=["attn2"], feed_forward=["ffn"]),
            frame=model, layout=layout, reads=("hidden_states", "timestep"),
            rows=(Rows("rotary_emb", 2, batched=True), Rows("temb", 1, batched=True)),
            key_value=None, rotary=True,
        )  # fmt: skip


@register_family("SanaVideoTransformer3DModel")
def sana_video(model: Model) -> Iterable[Site]:
    """Sana-Video: linear attention, so that merging saves its projections and no matrix of scores."""
    layout = noisy_patches(*model.config.patch_size)
    for name, block in listed(model, "transformer_blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn1"], cross_attention=["attn2"], feed_forward=["ff"]),
            frame=model, layout=layout, reads=("hidden_states", "timestep"), rows=(Rows("rotary_emb", 1, batched=True),),
            key_value=None, key_bias=None, rotary=True, without={**CONVOLUTION, **LINEAR},
        )  # fmt: skip
