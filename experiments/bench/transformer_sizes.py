"""The shapes of diffusion transformers, as published, and of what their pipelines call them with. No weights are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Inputs = dict[str, Any]
"""Arguments by name. Tensors on the meta device stand for random numbers of that shape; others, such as positions, are real."""


@dataclass(frozen=True)
class Request:
    """What a transformer is asked for, counted in its own units.

    Args:
        batch: B.
        grid: (f, h, w) tokens; f is 1 for an image.
        words: text tokens.
        config: of the transformer.
    """

    batch: int
    grid: tuple[int, int, int]
    words: int
    config: Mapping[str, Any]

    @property
    def tokens(self) -> int:
        """Of the grid."""
        frames, height, width = self.grid
        return frames * height * width

    def random(self, *shape: int) -> Tensor:
        """A tensor (B, ...) that is to be filled."""
        return torch.empty(self.batch, *shape, device="meta")


@dataclass(frozen=True)
class Transformer:
    """The shape of a diffusion transformer and of its inputs.

    Args:
        name: of its class in diffusers.
        config: its configuration; omitted keys have diffusers' defaults.
        kinds: for each kind of block the list that has them, and the key of the configuration that says how many.
        inputs: what its pipeline calls it with, but for the timestep; the first is the sample.
        words: text tokens.
        pixels: the image size by default: a side, or height and width.
        factor: pixels per token, along a side.
        frames: of a video by default; None for images.
        per_frame: frames per row of tokens along time, after the first, which is encoded alone.
        noise: what it is called with at timestep 1000.
    """

    name: str
    config: Mapping[str, Any]
    kinds: Mapping[str, tuple[str, str]]
    inputs: Callable[[Request], Inputs]
    words: int
    pixels: int | tuple[int, int] = 1024
    factor: int = 16
    frames: int | None = None
    per_frame: int = 4
    noise: float = 1000.0

    def grid(self, height: int, width: int, frames: int | None) -> tuple[int, int, int]:
        """(f, h, w) tokens of an image or a video in pixels."""
        return 1 + ((frames or 1) - 1) // self.per_frame, height // self.factor, width // self.factor


def _sd3(asked: Request) -> Inputs:
    _, height, width = asked.grid
    return {
        "hidden_states": asked.random(asked.config["in_channels"], 2 * height, 2 * width),
        "encoder_hidden_states": asked.random(asked.words, asked.config["joint_attention_dim"]),
        "pooled_projections": asked.random(asked.config["pooled_projection_dim"]),
    }


def _flux(asked: Request) -> Inputs:
    _, height, width = asked.grid
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return {
        "hidden_states": asked.random(asked.tokens, asked.config["in_channels"]),
        "encoder_hidden_states": asked.random(asked.words, asked.config["joint_attention_dim"]),
        "pooled_projections": asked.random(asked.config["pooled_projection_dim"]),
        "img_ids": torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1).float(),
        "txt_ids": torch.zeros(asked.words, 3),
        "guidance": torch.full((asked.batch,), 3.5),
    }


def _qwen_image(asked: Request) -> Inputs:
    return {
        "hidden_states": asked.random(asked.tokens, asked.config["in_channels"]),
        "encoder_hidden_states": asked.random(asked.words, asked.config["joint_attention_dim"]),
        "img_shapes": [[asked.grid]] * asked.batch,
    }


def _wan(asked: Request) -> Inputs:
    frames, height, width = asked.grid
    return {
        "hidden_states": asked.random(asked.config["in_channels"], frames, 2 * height, 2 * width),
        "encoder_hidden_states": asked.random(asked.words, asked.config["text_dim"]),
    }


def _ltx(asked: Request) -> Inputs:
    return {
        "hidden_states": asked.random(asked.tokens, asked.config["in_channels"]),
        "encoder_hidden_states": asked.random(asked.words, asked.config["caption_channels"]),
        "encoder_attention_mask": torch.ones(asked.batch, asked.words),
        **dict(zip(("num_frames", "height", "width"), asked.grid, strict=True)),
    }


def _cogvideox(asked: Request) -> Inputs:
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    frames, *sides = asked.grid
    crop = (0, 0), (sides[0], sides[1])
    return {
        "hidden_states": asked.random(frames, asked.config["in_channels"], *(2 * side for side in sides)),
        "encoder_hidden_states": asked.random(asked.words, asked.config["text_embed_dim"]),
        "image_rotary_emb": get_3d_rotary_pos_embed(asked.config["attention_head_dim"], crop, crop[1], frames),
    }


BLOCKS = {"block": ("transformer_blocks", "num_layers")}
DOUBLE_AND_SINGLE = {
    "double": ("transformer_blocks", "num_layers"),
    "single": ("single_transformer_blocks", "num_single_layers"),
}
WAN: dict[str, Any] = {"kinds": {"block": ("blocks", "num_layers")}, "inputs": _wan, "words": 512}
VIDEO: dict[str, Any] = {"pixels": (480, 832), "frames": 81}
TRANSFORMERS: dict[str, Transformer] = {
    "sd3": Transformer(
        "SD3Transformer2DModel",
        {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192},
        BLOCKS, _sd3, words=333,
    ),
    "flux": Transformer(
        "FluxTransformer2DModel", {"guidance_embeds": True}, DOUBLE_AND_SINGLE, _flux, words=512, noise=1.0
    ),
    "qwen-image": Transformer("QwenImageTransformer2DModel", {}, BLOCKS, _qwen_image, words=512, noise=1.0),
    "wan-1.3b": Transformer(
        "WanTransformer3DModel", {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}, **WAN, **VIDEO
    ),
    "wan-14b": Transformer("WanTransformer3DModel", {}, **WAN, **VIDEO),
    "ltx": Transformer(
        "LTXVideoTransformer3DModel", {}, BLOCKS, _ltx, words=128, factor=32, per_frame=8, **VIDEO
    ),
    "cogvideox": Transformer(
        "CogVideoXTransformer3DModel",
        {"num_layers": 42, "num_attention_heads": 48, "use_rotary_positional_embeddings": True},
        BLOCKS, _cogvideox, words=226, pixels=(480, 720), frames=81,
    ),
}  # fmt: skip
"""transformer/config.json of Stable Diffusion 3, Flux.1-dev, Qwen-Image, Wan 2.1, LTX-Video 0.9 and CogVideoX-5B."""
