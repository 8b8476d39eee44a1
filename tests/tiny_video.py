"""Tiny random transformers and U-Nets that make videos."""

import diffusers
import torch
from tiny_family import FRAMES, WORDS, H, W, randn, tiny

VIDEO_UNET = {"layers_per_block": 1, "cross_attention_dim": 32}


def _table(tokens: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    angles = 3 * randn(tokens, width // 2, seed=5)
    return tuple(f(angles).repeat_interleave(2, -1) for f in (torch.cos, torch.sin))


@tiny("CogVideoX", (FRAMES, H // 2, W // 2), joint=True, rows=("image_rotary_emb",))
def cogvideox(t=500.0, rotary=True):
    model = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=32,
        num_layers=2,
        sample_width=W,
        sample_height=H,
        sample_frames=4 * FRAMES - 3,
        max_text_seq_length=WORDS,
        use_rotary_positional_embeddings=rotary,
    )
    return model, {
        "hidden_states": randn(2, FRAMES, 4, H, W),
        "encoder_hidden_states": randn(2, WORDS, 32),
        "timestep": torch.full((2,), t),
        "image_rotary_emb": _table(FRAMES * H * W // 4, 16) if rotary else None,
    }


@tiny("CogVideoX", (FRAMES, H // 2, W // 2), joint=True)
def cogvideox_absolute(t=500.0):
    return cogvideox(t, rotary=False)


@tiny("Wan 2.1, 2.2", (FRAMES, H // 2, W // 2), rows=("rotary_emb",))
def wan(t=500.0, clean=None):
    """With ``clean``, every token has a timestep, which is 0 in the first so many frames."""
    model = diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )
    timestep = torch.full((2,), t)
    if clean is not None:
        timestep = torch.full((2, FRAMES * H * W // 4), t)
        timestep[:, : clean * H * W // 4] = 0
    return model, {
        "hidden_states": randn(2, 4, FRAMES, H, W),
        "encoder_hidden_states": randn(2, WORDS, 16),
        "timestep": timestep,
    }


@tiny("Wan 2.1, 2.2", (FRAMES, H // 2, W // 2), rows=("rotary_emb", "temb"))
def wan_per_token(t=500.0):
    return wan(t, clean=0)


@tiny("Wan 2.1, 2.2", (FRAMES - 1, H // 2, W // 2), rows=("rotary_emb", "temb"))
def wan_from_image(t=500.0):
    return wan(t, clean=1)


@tiny("LTX-Video", (FRAMES, H // 2, W // 2), rows=("image_rotary_emb",))
def ltx(t=500.0, clean=None):
    model = diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=16,
    )
    h, w = H // 2, W // 2
    timestep = torch.full((2,), t)
    if clean is not None:
        timestep = torch.full((2, FRAMES * h * w), t)
        timestep[:, : clean * h * w] = 0
    return model, {
        "hidden_states": randn(2, FRAMES * h * w, 8),
        "encoder_hidden_states": randn(2, WORDS, 16),
        "encoder_attention_mask": torch.ones(2, WORDS),
        "timestep": timestep,
        "num_frames": FRAMES,
        "height": h,
        "width": w,
    }


@tiny("LTX-Video", (FRAMES - 1, H // 2, W // 2), rows=("image_rotary_emb", "temb"))
def ltx_from_image(t=500.0):
    return ltx(t, clean=1)


@tiny("AnimateDiff, UNet3D, Stable Video Diffusion")
def motion(t=500, frames=FRAMES, side=16):
    model = diffusers.UNetMotionModel(
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        num_attention_heads=2,
        motion_num_attention_heads=2,
        **VIDEO_UNET,
    )
    return model, {
        "sample": randn(2, 4, frames, side, side),
        "timestep": torch.tensor(t),
        "encoder_hidden_states": randn(2, WORDS, 32).repeat_interleave(frames, 0),
    }


@tiny("AnimateDiff, UNet3D, Stable Video Diffusion")
def unet3d(t=500, frames=FRAMES, side=16):
    model = diffusers.UNet3DConditionModel(
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        attention_head_dim=8,
        **VIDEO_UNET,
    )
    return model, {
        "sample": randn(2, 4, frames, side, side),
        "timestep": torch.tensor(t),
        "encoder_hidden_states": randn(2, WORDS, 32),
    }


@tiny("AnimateDiff, UNet3D, Stable Video Diffusion")
def stable_video(t=500, frames=FRAMES, side=16):
    model = diffusers.UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
        num_attention_heads=(2, 4),
        **VIDEO_UNET,
    )
    return model, {
        "sample": randn(2, frames, 8, side, side),
        "timestep": torch.tensor(t),
        "encoder_hidden_states": randn(2, 3, 32),  # of one word, cross-attention is a constant
        "added_time_ids": torch.ones(2, 3),
    }
