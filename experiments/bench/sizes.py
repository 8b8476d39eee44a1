"""Shapes by name: those of U-Nets, as published and as pipeline folders have them. No weights are read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergekit_diff.registry import one_of

from ..models import MODELS
from ..reading import read_json
from .transformer_sizes import TRANSFORMERS, Transformer

_SD: dict[str, Any] = {"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2}
_XL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
UNETS: dict[str, Mapping[str, Any]] = {
    "sd15": {**_SD, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21": {**_SD, "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20),
             "use_linear_projection": True},
    "sdxl": _XL,
}  # fmt: skip
"""unet/config.json of Stable Diffusion 1.5, 2.1 and XL; omitted keys have diffusers' defaults."""


@dataclass(frozen=True)
class Size:
    """The shape of a U-Net and of its inputs.

    Args:
        unet: its configuration.
        factor: pixels per latent, along a side.
        words: text tokens.
        frames: none; it makes images.
    """

    unet: Mapping[str, Any]
    factor: int = 8
    words: int = 77
    frames: None = None

    @property
    def pixels(self) -> int | list[int]:
        """The image size that it was trained for: a side, or height and width."""
        side = self.unet["sample_size"]
        return side * self.factor if isinstance(side, int) else [one * self.factor for one in side]


def find_size(name: str) -> Size | Transformer:
    """A size by name, or that of a pipeline folder with a U-Net.

    Raises:
        ValueError: no such size, or the folder has no U-Net; the message is one line.
    """
    if name in UNETS:
        return Size(UNETS[name])
    if name in TRANSFORMERS:
        return TRANSFORMERS[name]
    folder = MODELS[name].folder if name in MODELS else Path(name)
    if not folder.is_dir():
        one_of(name, [*UNETS, *TRANSFORMERS, *MODELS], "size (nor a pipeline folder)")
    unet = _read(folder / "unet" / "config.json")
    kind = unet.get("_class_name")
    if kind != "UNet2DConditionModel":
        raise ValueError(f"expected a UNet2DConditionModel in {folder}, got {kind}")
    channels = _read(folder / "vae" / "config.json").get("block_out_channels")
    if not isinstance(channels, list):
        raise ValueError(f"expected a list of block_out_channels in {folder / 'vae' / 'config.json'}, got {channels!r}")
    words = _read(folder / "text_encoder" / "config.json").get("max_position_embeddings", 77)
    return Size({key: value for key, value in unet.items() if not key.startswith("_")}, 2 ** (len(channels) - 1), words)


def _read(path: Path) -> dict[str, Any]:
    try:
        config = read_json(path)
    except OSError:
        raise ValueError(f"expected the folder of a pipeline with a U-Net, but {path} is missing") from None
    if not isinstance(config, dict):
        raise ValueError(f"expected a mapping in {path}, got {type(config).__name__}")
    return config
