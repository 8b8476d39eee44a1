"""Diffusion transformers of diffusers that make videos."""

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import Any

from torch import Tensor

from . import Layout, Model, Rows, Site, listed, parts, register_family
from .image import JOINT, patches


def noisy(grid: tuple[int, ...], timestep: Tensor) -> Layout:
    """The longest run of frames without a clean token: those that a video is made from must not merge with what is made.

    Args:
        grid: ``(f, h, w)``, at the end of the sequence.
        timestep: (B,), or (B, tokens) with one for each token, which is lower than others of its row where it is clean.

    Raises:
        ValueError: every frame has clean tokens.

    >>> import torch
    >>> noisy((3, 1, 2), torch.tensor([[0, 0, 9, 9, 9, 9]]))
    Layout(grid=(2, 1, 2), start=-4)
    """
    frames, height, width = grid
    size = height * width
    clean = [False] * frames
    if timestep.dim() == 2 and timestep.shape[1] >= frames * size:
        tokens = (timestep < timestep.amax(1, keepdim=True)).any(0)[-frames * size :]
        clean = tokens.view(frames, size).any(1).tolist()
    runs = [[i for i, _ in run] for is_clean, run in groupby(enumerate(clean), key=lambda each: each[1]) if not is_clean]
    if not runs:
        raise ValueError("expected a frame without clean tokens in any row of the batch, got none")
    run = max(runs, key=len)
    return Layout((len(run), height, width), start=-(frames - run[0]) * size)


def noisy_patches(*sizes: int) -> Callable[[Mapping[str, Any]], Layout]:
    """As ``patches``, without clean frames."""
    layout = patches(*sizes)
    return lambda arguments: noisy(layout(arguments).grid, arguments["timestep"])


def by_frames(size: int, frames: int) -> Callable[[Mapping[str, Any]], Layout]:
    """CogVideoX: (B, f, C, h, w), cut into patches of some frames; text is in front."""

    def layout(arguments: Mapping[str, Any]) -> Layout:
        _, f, _, h, w = arguments["hidden_states"].shape
        grid = -(-f // frames), h // size, w // size
        return Layout(grid, start=-grid[0] * grid[1] * grid[2])

    return layout


def by_numbers(arguments: Mapping[str, Any]) -> Layout:
    """LTX: the numbers of frames, rows and columns, or a position (B, 3, tokens) of every token, those of conditions in front."""
    if arguments.get("num_frames") is None:
        grid = tuple(len(axis.unique()) for axis in arguments["video_coords"][0])
    else:
        grid = tuple(arguments[name] for name in ("num_frames", "height", "width"))
    return noisy(grid, arguments["timestep"])


@register_family("CogVideoXTransformer3DModel", channels=2)
def cogvideox(model: Model) -> Iterable[Site]:
    """CogVideoX: two streams for the attention, and a feed-forward over both; positions are absolute, or a table of rotations."""
    config, rotary = model.config, model.config.use_rotary_positional_embeddings
    layout = by_frames(config.patch_size, config.patch_size_t or 1)
    for name, block in listed(model, "transformer_blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn1"], feed_forward=["ff"]),
            frame=model, layout=layout, reads=("hidden_states",),
            rows=(Rows("image_rotary_emb", 0),) if rotary else (),
            key_value=None, joint=True, rotary=rotary, without=JOINT,
        )  # fmt: skip


@register_family("WanTransformer3DModel", guidance="calls")
def wan(model: Model) -> Iterable[Site]:
    """Wan 2.1 and 2.2, in which a token may have a timestep of its own."""
    layout = noisy_patches(*model.config.patch_size)
    for name, block in listed(model, "blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn1"], cross_attention=["attn2"], feed_forward=["ffn"]),
            frame=model, layout=layout, reads=("hidden_states", "timestep"),
            rows=(Rows("rotary_emb", 1, batched=True), Rows("temb", 1, batched=True)),
            key_value=None, rotary=True,
        )  # fmt: skip


@register_family("LTXVideoTransformer3DModel")
def ltx(model: Model) -> Iterable[Site]:
    """LTX-Video, in which a token may have a timestep of its own."""
    for name, block in listed(model, "transformer_blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn1"], cross_attention=["attn2"], feed_forward=["ff"]),
            frame=model, layout=by_numbers, reads=("num_frames", "height", "width", "video_coords", "timestep"),
            rows=(Rows("image_rotary_emb", 1, batched=True), Rows("temb", 1, batched=True)),
            passes=frozenset({"encoder_hidden_states", "encoder_attention_mask"}),
            key_value=None, rotary=True,
        )  # fmt: skip
