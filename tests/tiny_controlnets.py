"""Tiny random ControlNets of diffusion transformers."""

import diffusers
from tiny_family import H, W, changed, randn, tiny
from tiny_image import flux, qwen_image, sd3


def _controls(build, kind, shape, **changes):
    """The ControlNet of a tiny transformer, and the arguments of a call with a control image."""
    model, inputs = build()
    control = kind.from_transformer(model, load_weights_from_transformer=False, **changes)
    return control, inputs | {"controlnet_cond": randn(2, *shape, seed=3)}


@tiny("ControlNets of Flux", (H, W), joint=True, rows=("image_rotary_emb",))
def flux_controlnet():
    heads = {"attention_head_dim": 16, "num_attention_heads": 2}
    return _controls(flux, diffusers.FluxControlNetModel, (H * W, 4), num_layers=1, num_single_layers=1, **heads)


@tiny("ControlNets of Flux", (H, W), joint=True, rows=("image_rotary_emb",))
def flux_controlnet_union():
    """A token that says the kind of control is in front of the text."""
    model, inputs = flux_controlnet()
    return changed(model, num_mode=3), inputs | {"controlnet_mode": (randn(2, 1) > 0).long()}


@tiny("ControlNets of Stable Diffusion 3", (H, W), joint=True)
def sd3_controlnet():
    return _controls(sd3, diffusers.SD3ControlNetModel, (4, 2 * H, 2 * W), num_layers=2, num_extra_conditioning_channels=0)


@tiny("ControlNets of Stable Diffusion 3.5", (H, W), without=("cross_attention",))
def sd35_controlnet():
    """The blocks of the 8B model's: they see no text, and tokens that the transformer has embedded."""
    model, inputs = sd3_controlnet()
    del inputs["encoder_hidden_states"]
    return changed(model, joint_attention_dim=None, use_pos_embed=False), inputs | {"hidden_states": randn(2, H * W, 32)}


@tiny("ControlNets of Qwen-Image", (H, W), joint=True, rows=("image_rotary_emb",))
def qwen_controlnet():
    heads = {"attention_head_dim": 16, "num_attention_heads": 3}
    return _controls(qwen_image, diffusers.QwenImageControlNetModel, (H * W, 16), num_layers=2, **heads)
