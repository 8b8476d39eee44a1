"""ControlNets of diffusion transformers: blocks of the model that they control, whose outputs are added between its blocks."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from . import Layout, Model, Site, register_family
from .image import flux, hunyuan_dit, patches, qwen_image, sana, sd3

APART = "a ControlNet returns the tokens between its blocks"


@register_family("FluxControlNetModel", time="t/1000", guidance="calls", channels=0)
def flux_controlnet(model: Model) -> Iterable[Site]:
    """Flux."""
    return (replace(site, apart=APART) for site in flux(model))


@register_family("HunyuanDiT2DControlNetModel", channels=0)
def hunyuan_dit_controlnet(model: Model) -> Iterable[Site]:
    """HunyuanDiT."""
    return (replace(site, apart=APART) for site in hunyuan_dit(model))


register_family("SanaControlNetModel", channels=0)(sana)


@register_family("QwenImageControlNetModel", time="t/1000", guidance="calls", channels=0)
def qwen_controlnet(model: Model) -> Iterable[Site]:
    """Qwen-Image, where no token is modulated by a time of its own."""
    for site in qwen_image(model):
        yield replace(site, apart=APART, rows=tuple(rows for rows in site.rows if rows.argument == "image_rotary_emb"))


@register_family("SD3ControlNetModel", channels=0)
def sd3_controlnet(model: Model) -> Iterable[Site]:
    """Stable Diffusion 3, and 3.5, where blocks see the image alone, as tokens already; the control image has the grid."""
    layout = patches(model.config.patch_size, model.config.patch_size)

    def of_control(arguments: Mapping[str, Any]) -> Layout:
        return layout({"hidden_states": arguments["controlnet_cond"]})

    for site in sd3(model):
        site = replace(site, apart=APART, layout=of_control, reads=("controlnet_cond",))
        yield site if model.context_embedder is not None else replace(site, joint=False, without={})
