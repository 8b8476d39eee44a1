"""Tiny random U-Nets whose attention takes a whole image."""

import diffusers
import torch
from tiny_family import WORDS, randn, tiny

KEYS_ALONE = ("self_attention", "feed_forward", "block")


@tiny("Stable Cascade", joint=True, without=KEYS_ALONE)
def cascade(t=0.5):
    """Attention on both levels of the way down and up, in the second of them twice."""
    model = diffusers.StableCascadeUNet(
        in_channels=4,
        out_channels=4,
        timestep_ratio_embedding_dim=8,
        conditioning_dim=16,
        block_out_channels=(16, 32),
        num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        down_blocks_repeat_mappers=(1, 2),
        up_blocks_repeat_mappers=(1, 1),
        clip_text_in_channels=16,
        clip_text_pooled_in_channels=16,
        clip_image_in_channels=16,
    )
    return model, {
        "sample": randn(2, 4, 8, 12),
        "timestep_ratio": torch.full((2,), t),
        "clip_text_pooled": randn(2, 1, 16),
        "clip_text": randn(2, WORDS, 16),
        "clip_img": randn(2, 1, 16),
    }


@tiny("Kandinsky 2", joint=True, without=KEYS_ALONE)
def kandinsky22(t=500):
    model = diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        encoder_hid_dim=16,
        encoder_hid_dim_type="image_proj",
        addition_embed_type="image",
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
        resnet_time_scale_shift="scale_shift",
    )
    image = randn(2, 16)
    return model, {
        "sample": randn(2, 4, 16, 24),
        "timestep": torch.tensor(t),
        "encoder_hidden_states": None,
        "added_cond_kwargs": {"image_embeds": image},
    }


@tiny("Kandinsky 3", without=("feed_forward", "block"))
def kandinsky3(t=500):
    model = diffusers.Kandinsky3UNet(
        time_embedding_dim=16,
        groups=4,
        attention_head_dim=8,
        layers_per_block=2,
        block_out_channels=(16, 16, 32, 32),
        cross_attention_dim=16,
        encoder_hid_dim=16,
    )
    return model, {
        "sample": randn(2, 4, 32, 32),
        "timestep": torch.tensor(t),
        "encoder_hidden_states": randn(2, WORDS, 16),
        "encoder_attention_mask": torch.ones(2, WORDS),
    }


@tiny("UNet2D, without text", without=(*KEYS_ALONE, "cross_attention"))
def unet2d(t=500):
    model = diffusers.UNet2DModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=8,
    )
    return model, {"sample": randn(2, 4, 16, 24), "timestep": torch.tensor(t)}


@tiny("DreamLite")
def dreamlite(t=500):
    """Self-attention on the second level alone."""
    model = diffusers.DreamLiteUNetModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
        up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteCrossAttnNoSelfAttnUpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=32,
        norm_num_groups=8,
    )
    return model, {"sample": randn(2, 4, 16, 24), "timestep": torch.tensor(t), "encoder_hidden_states": randn(2, WORDS, 32)}
