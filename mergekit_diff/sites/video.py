"""Diffusion transformers of diffusers that make videos and read the text by cross-attention."""

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import Any

from torch import Tensor

from . import ROLES, Layout, Model, Rows, Site, listed, parts, register_family
from .image import patches
from .unet import OVER_TIME, block_roles

ADDED = "the model adds to the tokens between blocks"
LIKE_WAN = ("WanVACETransformer3DModel", "WanAnimateTransformer3DModel", "ChronoEditTransformer3DModel")


def noisy(grid: tuple[int, ...], timestep: Tensor, *, in_front: bool = False) -> Layout:
    """The longest run of frames without a clean token: those that a video is made from must not merge with what is made.

    Args:
        grid: ``(f, h, w)``, at the end of the sequence.
        timestep: (B,), or one for each frame, or for each token, which is lower than others of its row where it is clean.
        in_front: whether the grid is at the front of the sequence instead.

    Raises:
        ValueError: every frame has clean tokens.

    >>> import torch
    >>> noisy((3, 1, 2), torch.tensor([[0, 0, 9, 9, 9, 9]]))
    Layout(grid=(2, 1, 2), start=-4)
    >>> noisy((3, 1, 2), torch.tensor([[0, 9, 9]]), in_front=True)
    Layout(grid=(2, 1, 2), start=2)
    """
    frames, height, width = grid
    size = height * width
    clean, times = [False] * frames, timestep.flatten(1) if timestep.dim() > 1 else None
    if times is not None and (times.shape[1] == frames or times.shape[1] >= frames * size):
        cleaner = (times < times.amax(1, keepdim=True)).any(0)
        cleaner = cleaner[: frames * size] if in_front else cleaner[-frames * size :]
        clean = cleaner.view(frames, -1).any(1).tolist()
    return between(grid, clean, in_front=in_front)


def between(grid: tuple[int, ...], clean: list[bool], *, in_front: bool = False) -> Layout:
    """As :func:`noisy`, for frames that are known to be clean or not."""
    frames, height, width = grid
    runs = [[i for i, _ in run] for is_clean, run in groupby(enumerate(clean), key=lambda each: each[1]) if not is_clean]
    if not runs:
        raise ValueError("expected a frame without clean tokens in any row of the batch, got none")
    run = max(runs, key=len)
    first = run[0] if in_front else run[0] - frames
    return Layout((len(run), height, width), start=first * height * width)


def noisy_patches(*sizes: int) -> Callable[[Mapping[str, Any]], Layout]:
    """As ``patches``, without clean frames."""
    layout = patches(*sizes)
    return lambda arguments: noisy(layout(arguments).grid, arguments["timestep"])


def by_numbers(arguments: Mapping[str, Any]) -> Layout:
    """LTX: the numbers of frames, rows and columns, or a position (B, 3, tokens) of every token, those of conditions in front."""
    if arguments.get("num_frames") is None:
        grid = tuple(len(axis.unique()) for axis in arguments["video_coords"][0])
    else:
        grid = tuple(arguments[name] for name in ("num_frames", "height", "width"))
    return noisy(grid, arguments["timestep"])


def by_condition(*sizes: int) -> Callable[[Mapping[str, Any]], Layout]:
    """Cosmos: as :func:`noisy_patches`; frames that a mask (B, 1, f, h, w) calls conditions are clean too."""
    layout = patches(*sizes)

    def unconditioned(arguments: Mapping[str, Any]) -> Layout:
        grid, mask = layout(arguments).grid, arguments.get("condition_mask")
        if mask is None:
            return noisy(grid, arguments["timestep"])
        return between(grid, mask.unflatten(2, (grid[0], -1)).movedim(2, 0).flatten(1).any(1).tolist())

    return unconditioned


@register_family("WanTransformer3DModel", *LIKE_WAN, guidance="calls")
def wan(model: Model) -> Iterable[Site]:
    """Wan 2.1 and 2.2, in which a token may have a timestep of its own; with VACE, blocks of a control run first."""
    layout = noisy_patches(*model.config.patch_size)
    for name, block in listed(model, *(["vace_blocks"] if hasattr(model, "vace_blocks") else []), "blocks"):
        control = name.startswith("vace")
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn1"], cross_attention=["attn2"], feed_forward=["ffn"]),
            argument="control_hidden_states" if control else None,
            frame=model, layout=layout, reads=("hidden_states", "timestep"),
            rows=(Rows("rotary_emb", 1, batched=True), Rows("temb", 1, batched=True)),
            key_value=None, rotary=True, without={"block": "it also returns what other blocks add"} if control else {},
            apart=ADDED if type(model).__name__ in LIKE_WAN[:2] else "",
        )  # fmt: skip


@register_family("SkyReelsV2Transformer3DModel", guidance="calls")
def skyreels(model: Model) -> Iterable[Site]:
    """SkyReels 2: Wan, in which a frame may have a timestep of its own, and may be hidden from those before it."""
    masks = Rows("attention_mask", 2, batched=True), Rows("attention_mask", 3, batched=True)
    layout = noisy_patches(*model.config.patch_size)
    for name, block in listed(model, "blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn1"], cross_attention=["attn2"], feed_forward=["ffn"]),
            frame=model, layout=layout, reads=("hidden_states", "timestep"),
            rows=(Rows("rotary_emb", 1, batched=True), Rows("temb", 2, batched=True, dims=4), *masks),
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


@register_family("AllegroTransformer3DModel")
def allegro(model: Model) -> Iterable[Site]:
    """Allegro: three tables of positions, and every token's three places in them."""
    config = model.config
    layout = patches(config.patch_size_t, config.patch_size, config.patch_size)
    for name, block in listed(model, "transformer_blocks"):
        yield Site(
            name,
            block,
            roles=block_roles(block),
            frame=model, layout=layout, reads=("hidden_states",),
            rows=(Rows("image_rotary_emb", 1, batched=True, path=(1,)), Rows("attention_mask", 2, batched=True)),
            key_value=None, rotary=True,
        )  # fmt: skip


@register_family("LatteTransformer3DModel")
def latte(model: Model) -> Iterable[Site]:
    """Latte: a block within each frame, then one over time."""
    layout = patches(model.config.patch_size, model.config.patch_size)
    for (name, block), (later, over_time) in zip(
        listed(model, "transformer_blocks"), listed(model, "temporal_transformer_blocks"), strict=True
    ):
        yield Site(name, block, roles=block_roles(block), frame=model, layout=layout, reads=("hidden_states",))
        yield Site(later, over_time, roles=block_roles(over_time), without=dict.fromkeys(ROLES, OVER_TIME))


@register_family("CosmosTransformer3DModel", time="t/1000", guidance="calls")
def cosmos(model: Model) -> Iterable[Site]:
    """Cosmos 1, 2 and 2.5, in which a frame may have a timestep of its own."""
    layout = by_condition(*model.config.patch_size)
    beside = tuple(Rows(name, 1, batched=True, dims=3) for name in ("embedded_timestep", "temb"))
    added = tuple(Rows(name, 1, batched=True) for name in ("extra_pos_emb", "controlnet_residual"))
    for name, block in listed(model, "transformer_blocks"):
        yield Site(
            name,
            block,
            roles=block_roles(block),
            frame=model, layout=layout, reads=("hidden_states", "timestep", "condition_mask"),
            rows=(Rows("image_rotary_emb", 0), *beside, *added),
            passes=frozenset({"encoder_hidden_states", "attention_mask"}),
            key_value=None, rotary=True,
        )  # fmt: skip
