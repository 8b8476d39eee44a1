"""Tiny random ControlNets of diffusion transformers."""

import diffusers
import torch
from tiny_family import WORDS, H, W, changed, randn, tiny
from tiny_image import flux, hunyuan_dit, qwen_image, sana, sd3

SANA = (
    *("in_channels", "out_channels", "num_attention_heads", "attention_head_dim", "num_layers", "num_cross_attention_heads"),
    *("cross_attention_head_dim", "cross_attention_dim", "caption_channels"),
)


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


@tiny("ControlNets of HunyuanDiT", (H, W), rows=("image_rotary_emb",))
def hunyuan_dit_controlnet():
    model, inputs = hunyuan_dit()
    kind = diffusers.HunyuanDiT2DControlNetModel
    control = kind.from_transformer(model, transformer_num_layers=6, load_weights_from_transformer=False)
    return control, inputs | {"controlnet_cond": randn(2, 4, 2 * H, 2 * W, seed=3)}


@tiny("ControlNets of Sana", (H, W), without=("feed_forward", "block"))
def sana_controlnet():
    model, inputs = sana()
    settings = {name: value for name, value in model.config.items() if name in SANA}
    return diffusers.SanaControlNetModel(**settings), inputs | {"controlnet_cond": randn(2, 4, H, W, seed=3)}


@tiny("ControlNet-XS")
def controlnet_xs():
    """The U-Net and its control run in turns, each with attentions of its own."""
    model = diffusers.UNetControlNetXSModel(
        sample_size=16,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8,
        cross_attention_dim=32,
        num_attention_heads=2,
        ctrl_conditioning_embedding_out_channels=(16, 32),
        ctrl_block_out_channels=(8, 16),
        ctrl_num_attention_heads=2,
        ctrl_max_norm_num_groups=4,
        upcast_attention=False,
    )
    return model, _of_unet() | {"controlnet_cond": randn(2, 3, 32, 32, seed=3)}


@tiny("ControlNet Union")
def controlnet_union():
    model = diffusers.ControlNetUnionModel(
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=32,
        attention_head_dim=2,
        conditioning_embedding_out_channels=(16, 32),
        num_control_type=2,
        num_trans_channel=16,
        num_trans_head=2,
        num_proj_channel=16,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16,
    )
    control = {"controlnet_cond": [randn(2, 3, 32, 32, seed=3)], "control_type": torch.tensor([[1, 0]] * 2)}
    return model, _of_unet() | control | {"control_type_idx": [0]}


def _of_unet():
    text = randn(2, WORDS, 32)
    return {"sample": randn(2, 4, 16, 16), "timestep": torch.tensor(500), "encoder_hidden_states": text}
