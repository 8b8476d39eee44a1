"""Tiny random transformers and U-Nets that make videos."""

import diffusers
import torch
from tiny_family import FRAMES, WORDS, H, W, randn, tiny, valid_words

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


WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}


@tiny("Wan VACE", (FRAMES, H // 2, W // 2), rows=("rotary_emb",))
def wan_vace(t=500.0):
    model = diffusers.WanVACETransformer3DModel(**WAN, in_channels=4, out_channels=4, vace_layers=[0], vace_in_channels=6)
    return model, wan(t)[1] | {"control_hidden_states": randn(2, 6, FRAMES, H, W)}


@tiny("Wan 2.1, 2.2", (FRAMES, H // 2, W // 2), rows=("rotary_emb",))
def wan_animate(t=500.0):
    model = diffusers.WanAnimateTransformer3DModel(
        **WAN,
        in_channels=12,
        latent_channels=4,
        out_channels=4,
        image_dim=4,
        motion_encoder_channel_sizes={"4": 16, "8": 16, "16": 16},
        motion_encoder_size=16,
        motion_style_dim=8,
        motion_dim=4,
        motion_encoder_dim=16,
        face_encoder_hidden_dim=16,
        face_encoder_num_heads=2,
        inject_face_latents_blocks=2,
    )
    return model, wan(t)[1] | {
        "hidden_states": randn(2, 12, FRAMES, H, W),
        "encoder_hidden_states_image": randn(2, 3, 4),
        "pose_hidden_states": randn(2, 4, FRAMES - 1, H, W),
        "face_pixel_values": randn(2, 3, 4 * (FRAMES - 1) - 3, 16, 16),
    }


@tiny("SkyReels 2", (FRAMES, H // 2, W // 2), rows=("rotary_emb",))
def skyreels(t=500.0, clean=None, **changes):
    """With ``clean``, every frame has a timestep, which is 0 in the first so many."""
    model = diffusers.SkyReelsV2Transformer3DModel(**WAN, in_channels=4, out_channels=4, **changes)
    inputs = wan(t)[1]
    if clean is not None:
        inputs |= {"timestep": torch.full((2, FRAMES), t), "enable_diffusion_forcing": True}
        inputs["timestep"][:, :clean] = 0
    return model, inputs


@tiny("SkyReels 2", (FRAMES - 1, H // 2, W // 2), rows=("rotary_emb", "temb", "attention_mask"))
def skyreels_from_image(t=500.0):
    return skyreels(t, clean=1, num_frame_per_block=FRAMES)


@tiny("Allegro", (FRAMES, H // 2, W // 2), rows=("image_rotary_emb", "attention_mask"))
def allegro(t=500.0):
    model = diffusers.AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        cross_attention_dim=24,
        caption_channels=16,
        sample_height=H,
        sample_width=W,
        sample_frames=FRAMES,
    )
    places = torch.meshgrid(*(torch.arange(side) for side in (FRAMES, H // 2, W // 2)), indexing="ij")
    mask = torch.ones(2, FRAMES, H, W)
    mask[1, :, :, -2:] = 0
    return model, {
        "hidden_states": randn(2, 4, FRAMES, H, W),
        "encoder_hidden_states": randn(2, 1, WORDS, 16),
        "timestep": torch.full((2,), t),
        "attention_mask": mask,
        "encoder_attention_mask": valid_words(),
        "image_rotary_emb": (
            tuple(_table(side, 4) for side in (FRAMES, H // 2, W // 2)),
            tuple(place.reshape(1, -1) for place in places),
        ),
    }


@tiny("Latte", (H // 2, W // 2))
def latte(t=500.0):
    model = diffusers.LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        cross_attention_dim=16,
        sample_size=W,
        patch_size=2,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        caption_channels=16,
        video_length=FRAMES,
    )
    return model, {
        "hidden_states": randn(2, 4, FRAMES, H, W),
        "timestep": torch.full((2,), t),
        "encoder_hidden_states": randn(2, WORDS, 16),
    }


COSMOS_ROWS = ("image_rotary_emb", "extra_pos_emb")


@tiny("Cosmos", (FRAMES, H // 2, W // 2), rows=COSMOS_ROWS)
def cosmos(t=500.0, **changes):
    model = diffusers.CosmosTransformer3DModel(
        in_channels=5,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=18,
        num_layers=2,
        mlp_ratio=2,
        text_embed_dim=16,
        adaln_lora_dim=4,
        max_size=(8, 32, 32),
        controlnet_block_every_n=1,
        concat_padding_mask=False,
    )
    torch.nn.init.normal_(model.learnable_pos_embed.pos_emb_w)
    return model, {
        "hidden_states": randn(2, 4, FRAMES, H, W),
        "timestep": torch.full((2,), t),
        "encoder_hidden_states": randn(2, WORDS, 16),
        "condition_mask": torch.zeros(2, 1, FRAMES, H, W),
        "fps": 24,
        **changes,
    }


@tiny("Cosmos", (FRAMES - 1, H // 2, W // 2), rows=(*COSMOS_ROWS, "embedded_timestep", "temb", "controlnet_residual"))
def cosmos_from_image(t=500.0):
    """The first frame is given, and a ControlNet adds to each block."""
    time = torch.full((2, 1, FRAMES, 1, 1), t)
    time[:, :, :1] = 0
    mask = torch.zeros(2, 1, FRAMES, H, W)
    mask[:, :, :1] = 1
    residuals = [randn(2, FRAMES * H * W // 4, 36, seed=seed) for seed in range(2)]
    return cosmos(t, timestep=time, condition_mask=mask, block_controlnet_hidden_states=residuals)
