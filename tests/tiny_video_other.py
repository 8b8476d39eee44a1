"""Further tiny random models that make videos, some with sound."""

import diffusers
import torch
from tiny_family import FRAMES, WORDS, H, W, randn, tiny, valid_words
from tiny_video import VIDEO_UNET, WAN, wan
from tiny_video_joint import HUNYUAN

SOUNDS = 5  # tokens of sound
GRID = (FRAMES, H // 2, W // 2)


@tiny("Wan 2.1, 2.2", GRID, rows=("rotary_emb",))
def chronoedit(t=500.0):
    return diffusers.ChronoEditTransformer3DModel(**WAN, in_channels=4, out_channels=4), wan(t)[1]


@tiny("AnyFlow", GRID, rows=("rotary_emb", "temb"))
def anyflow(t=500.0):
    model = diffusers.AnyFlowTransformer3DModel(**WAN, in_channels=4, out_channels=4)
    return model, {
        "hidden_states": randn(2, FRAMES, 4, H, W),
        "timestep": torch.full((2, FRAMES), t),
        "r_timestep": torch.full((2, FRAMES), t / 2),
        "encoder_hidden_states": randn(2, WORDS, 16),
    }


@tiny("Helios", GRID, rows=("rotary_emb",), without=("block",))
def helios(t=500.0):
    model = diffusers.HeliosTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_dim=(4, 4, 4),
    )
    return model, wan(t)[1] | {
        "indices_hidden_states": torch.arange(20, 20 + FRAMES).expand(2, -1),
        "indices_latents_history_short": torch.tensor([0, 19]).expand(2, -1),
        "latents_history_short": randn(2, 4, 2, H, W),
        "indices_latents_history_mid": torch.arange(17, 19).expand(2, -1),
        "latents_history_mid": randn(2, 4, 2, H, W),
        "indices_latents_history_long": torch.arange(1, 5).expand(2, -1),
        "latents_history_long": randn(2, 4, 4, H, W),
    }


@tiny("Motif-Video", GRID, joint=True, rows=("image_rotary_emb", "attention_mask"))
def motif_video(t=500.0):
    same = {name: value for name, value in HUNYUAN.items() if name not in ("num_refiner_layers", "guidance_embeds")}
    same.pop("pooled_projection_dim")
    model = diffusers.MotifVideoTransformer3DModel(**same, enable_text_cross_attention_dual=True)
    return model, {
        "hidden_states": randn(2, 4, FRAMES, H, W),
        "timestep": torch.full((2,), t),
        "encoder_hidden_states": randn(2, WORDS, 16),
        "encoder_attention_mask": valid_words(),
    }


@tiny("Kandinsky 5", GRID, rows=("rope", "rotary_emb"))
def kandinsky_5(t=500.0, conditioned=False):
    model = diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=16,
        in_text_dim2=8,
        time_dim=16,
        model_dim=24,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(4, 4, 4),
        visual_cond=conditioned,
    )
    x = randn(2, FRAMES, H, W, 9 if conditioned else 4)
    x[..., 8:] = 0
    x[:, :1, :, :, 8:] = 1
    return model, {
        "hidden_states": x,
        "encoder_hidden_states": randn(2, WORDS, 16),
        "timestep": torch.full((2,), t),
        "pooled_projections": randn(2, 8),
        "visual_rope_pos": [torch.arange(side) for side in GRID],
        "text_rope_pos": torch.arange(WORDS),
    }


@tiny("Kandinsky 6", GRID, rows=("vis_rope", "rotary_emb", "rope_q"))
def kandinsky_6(t=500.0):
    """The frame that is given is the last one."""
    model = diffusers.Kandinsky6Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=16,
        in_text_dim2=8,
        time_dim=16,
        model_dim=24,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=2,
        axes_dims=(4, 4, 4),
        visual_cond=False,
        in_audio_dim=6,
        out_audio_dim=6,
        ca_rope=True,
        visual_token_type_num_embeddings=2,
    )
    return model, {
        "hidden_states": randn(2, FRAMES + 1, H, W, 4),
        "encoder_hidden_states": randn(2, WORDS, 16),
        "pooled_projections": randn(2, 8),
        "timestep": torch.full((2,), t),
        "audio_hidden_states": randn(2, SOUNDS, 6),
        "visual_token_type_ids": torch.tensor([[0] * FRAMES + [1]] * 2),
    }


LTX_TABLES = ("video_rotary_emb", "ca_video_rotary_emb", "query_rotary_emb")


@tiny("LTX 2", GRID, rows=LTX_TABLES)
def ltx_2(t=500.0, clean=None, **changes):
    """With ``clean``, every token has a timestep, which is 0 in the first so many frames, and in those of a keyframe behind."""
    model = diffusers.LTX2VideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        cross_attention_dim=24,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=8,
        audio_cross_attention_dim=16,
        num_layers=2,
        caption_channels=16,
        **changes,
    )
    frames, h, w = GRID
    inputs = {
        "hidden_states": randn(2, frames * h * w, 4),
        "audio_hidden_states": randn(2, SOUNDS, 4),
        "encoder_hidden_states": randn(2, WORDS, 16),
        "audio_encoder_hidden_states": randn(2, WORDS, 16),
        "timestep": torch.full((2,), t),
        "encoder_attention_mask": valid_words(),
        "audio_encoder_attention_mask": valid_words(),
        "num_frames": frames,
        "height": h,
        "width": w,
        "audio_num_frames": SOUNDS,
    }
    if clean is not None:
        times = torch.full((2, (frames + 1) * h * w), t)
        times[:, : clean * h * w] = times[:, -h * w :] = 0
        coords = model.rope.prepare_video_coords(2, frames + 1, h, w, "cpu")
        inputs |= {"hidden_states": randn(2, (frames + 1) * h * w, 4), "timestep": times, "video_coords": coords}
        inputs["audio_timestep"] = torch.full((2,), t)
    return model, inputs


@tiny("LTX 2", (FRAMES - 1, H // 2, W // 2), rows=(*LTX_TABLES, "temb", "temb_ca_scale_shift", "temb_ca_gate"))
def ltx_2_from_image(t=500.0):
    return ltx_2(t, clean=1, rope_type="split")


@tiny("Sana-Video", GRID, rows=("rotary_emb",), without=("key_value", "feed_forward", "block"))
def sana_video(t=500.0):
    model = diffusers.SanaVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=16,
        rope_max_seq_len=32,
    )
    return model, wan(t)[1]


@tiny("AnimateDiff, UNet3D, Stable Video Diffusion")
def i2vgen(t=500, frames=FRAMES, side=16):
    model = diffusers.I2VGenXLUNet(
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
        "fps": torch.tensor([8, 8]),
        "image_latents": randn(2, 4, frames, side, side),
        "image_embeddings": randn(2, 32),
        "encoder_hidden_states": randn(2, WORDS, 32),
    }


@tiny("AnimateDiff, UNet3D, Stable Video Diffusion")
def sparse_control(t=500, frames=FRAMES, side=16):
    model = diffusers.SparseControlNetModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        cross_attention_dim=32,
        attention_head_dim=8,
        num_attention_heads=2,
        motion_num_attention_heads=2,
        conditioning_embedding_out_channels=(8, 8),
    )
    return model, {
        "sample": randn(2, 4, frames, side, side),
        "timestep": torch.tensor(t),
        "encoder_hidden_states": randn(2, WORDS, 32).repeat_interleave(frames, 0),
        "controlnet_cond": randn(2, 4, frames, side, side),
        "conditioning_mask": torch.ones(2, 1, frames, side, side),
    }
