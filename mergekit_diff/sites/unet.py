"""U-Nets and ControlNets of diffusers: every block with ``attn1`` inside a down, middle or up block is a site."""

import inspect
from collections.abc import Iterable, Iterator

from torch import nn

from . import ROLES, Site, parts, register_family
from .image_unets import attentions

OVER_TIME = "its tokens are the frames at one place, which would merge over time"
VIDEO = (
    "UNetMotionModel",
    "UNet3DConditionModel",
    "I2VGenXLUNet",
)
PRESET = {"name": "local-match", "ratio": 0.75, "stride": 4, "roles": ("key_value",), "levels": 2, "proportional": True}
"""Chosen by the study `preset` on one list of prompts, and judged on another by `preset-b`, with the embedded model."""
CONTROLNETS = ("ControlNetModel", "ControlNetUnionModel", "SparseControlNetModel")


@register_family("UNetSpatioTemporalConditionModel", channels=2)
@register_family(*CONTROLNETS, channels=0)
@register_family("UNet2DModel", "AudioLDM2UNet2DConditionModel", "UNetControlNetXSModel", *VIDEO)
@register_family("UNet2DConditionModel", preset=PRESET)
def sites(model: nn.Module) -> Iterable[Site]:
    """The transformer blocks in the order in which they run; a level is a resolution that has at least one."""
    blocks = [
        (factor, stage, f"{prefix}.{name}", frame, block)
        for factor, stage, prefix, part in _parts(model)
        for name, frame, block in _blocks(part)
    ]
    if not blocks:
        yield from attentions(_parts(model))
    levels = sorted({factor for factor, *_ in blocks})
    for factor, stage, name, frame, block in blocks:
        is_temporal = any("num_frames" in inspect.signature(module.forward).parameters for module in (frame, block))
        yield Site(
            name=name,
            block=block,
            roles=block_roles(block),
            without=dict.fromkeys(ROLES, OVER_TIME) if is_temporal else {},
            frame=frame,
            stage=stage,
            level=levels.index(factor),
            refuses=frozenset({"ip_adapter_masks"}),
            normalize=_first_norm(block),
        )


def block_roles(block: nn.Module) -> dict[str, nn.Module | tuple[nn.Module, ...]]:
    """The parts that a ``BasicTransformerBlock`` has."""
    return parts(block, self_attention=["attn1"], cross_attention=["attn2"], feed_forward=["ff"])


def _first_norm(block: nn.Module) -> nn.Module | None:
    """The norm whose output is the input of the first attention; None if it also reads a condition or positions are added."""
    plain = getattr(block, "norm_type", None) in ("layer_norm", "layer_norm_i2vgen")
    return block.get_submodule("norm1") if plain and getattr(block, "pos_embed", None) is None else None


def _parts(model: nn.Module) -> Iterator[tuple[int, str, str, nn.Module]]:
    """Every down, middle and up block, with the number of times that its resolution has been halved."""
    factor = 0
    for i, part in enumerate(model.get_submodule("down_blocks").children()):
        yield factor, "down", f"down_blocks.{i}", part
        factor += _has(part, "downsamplers")
    if getattr(model, "mid_block", None) is not None:
        yield factor, "mid", "mid_block", model.get_submodule("mid_block")
    for i, part in enumerate(getattr(model, "up_blocks", ())):
        yield factor, "up", f"up_blocks.{i}", part
        factor -= _has(part, "upsamplers")


def _has(part: nn.Module, resamplers: str) -> bool:
    return any(getattr(part, prefix + resamplers, None) is not None for prefix in ("", "base_"))


def _blocks(part: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """Name, enclosing module and block, for every transformer block whose first attention is self-attention."""
    for frame_name, frame in part.named_modules():
        for name in ("transformer_blocks", "temporal_transformer_blocks"):
            for i, block in enumerate(getattr(frame, name, ())):
                if hasattr(block, "attn1") and not getattr(block, "only_cross_attention", False):
                    yield f"{frame_name}.{name}.{i}", frame, block
