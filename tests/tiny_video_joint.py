"""Tiny random transformers that make videos, and in which text and video attend in one self-attention."""

import diffusers
import torch
from tiny_family import FRAMES, WORDS, H, W, randn, tiny, valid_words
from tiny_video import cogvideox

HUNYUAN = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 10,
    "num_layers": 1,
    "num_single_layers": 1,
    "num_refiner_layers": 1,
    "patch_size": 2,
    "guidance_embeds": True,
    "text_embed_dim": 16,
    "pooled_projection_dim": 8,
    "rope_axes_dim": (2, 4, 4),
}


def _hunyuan_inputs(t):
    return {
        "hidden_states": randn(2, 4, FRAMES, H, W),
        "timestep": torch.full((2,), t),
        "encoder_hidden_states": randn(2, WORDS, 16),
        "encoder_attention_mask": valid_words(),
        "pooled_projections": randn(2, 8),
        "guidance": torch.full((2,), 6000.0),
    }


HUNYUAN_ROWS = ("image_rotary_emb", "freqs_cis", "attention_mask")


@tiny("HunyuanVideo", (FRAMES, H // 2, W // 2), joint=True, rows=HUNYUAN_ROWS)
def hunyuan_video(t=500.0):
    return diffusers.HunyuanVideoTransformer3DModel(**HUNYUAN), _hunyuan_inputs(t)


@tiny("HunyuanVideo", (FRAMES - 1, H // 2, W // 2), joint=True, rows=HUNYUAN_ROWS)
def hunyuan_from_image(t=500.0):
    model = diffusers.HunyuanVideoTransformer3DModel(**HUNYUAN, image_condition_type="token_replace")
    return model, _hunyuan_inputs(t)


@tiny("FramePack", (FRAMES, H // 2, W // 2), joint=True, rows=HUNYUAN_ROWS)
def framepack(t=500.0):
    model = diffusers.HunyuanVideoFramepackTransformer3DModel(
        **HUNYUAN, has_image_proj=True, image_proj_dim=16, has_clean_x_embedder=True
    )
    return model, _hunyuan_inputs(t) | {
        "image_embeds": randn(2, 3, 16),
        "indices_latents": torch.arange(20, 20 + FRAMES),
        "latents_clean": randn(2, 4, 2, H, W),
        "indices_latents_clean": torch.tensor([0, 19]),
        "latents_history_2x": randn(2, 4, 2, H, W),
        "indices_latents_history_2x": torch.arange(17, 19),
        "latents_history_4x": randn(2, 4, 5, H, W),
        "indices_latents_history_4x": torch.arange(1, 6),
    }


@tiny("HunyuanVideo 1.5", (FRAMES, H // 2, W // 2), joint=True, rows=("image_rotary_emb", "freqs_cis"))
def hunyuan_video_15(t=500.0):
    model = diffusers.HunyuanVideo15Transformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=2,
        num_refiner_layers=1,
        patch_size=2,
        text_embed_dim=16,
        text_embed_2_dim=8,
        image_embed_dim=8,
        rope_axes_dim=(2, 4, 4),
    )
    return model, {
        "hidden_states": randn(2, 4, FRAMES, H, W),
        "timestep": torch.full((2,), t),
        "encoder_hidden_states": randn(2, WORDS, 16),
        "encoder_attention_mask": valid_words(),
        "encoder_hidden_states_2": randn(2, WORDS, 8),
        "encoder_attention_mask_2": valid_words(2),
        "image_embeds": torch.zeros(2, 3, 8),
    }


@tiny("Mochi", (FRAMES, H // 2, W // 2), joint=True, rows=("image_rotary_emb",))
def mochi(t=500.0):
    model = diffusers.MochiTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=12,
        in_channels=4,
        text_embed_dim=16,
        time_embed_dim=8,
        max_sequence_length=WORDS,
    )
    torch.nn.init.normal_(model.pos_frequencies)
    return model, {
        "hidden_states": randn(2, 4, FRAMES, H, W),
        "encoder_hidden_states": randn(2, WORDS, 16),
        "timestep": torch.full((2,), t),
        "encoder_attention_mask": valid_words(),
    }


@tiny("EasyAnimate", (FRAMES, H // 2, W // 2), joint=True, rows=("image_rotary_emb",))
def easyanimate(t=500.0):
    model = diffusers.EasyAnimateTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        patch_size=2,
        num_layers=2,
        mmdit_layers=1,
        time_embed_dim=8,
        text_embed_dim=16,
    )
    return model, {
        "hidden_states": randn(2, 4, FRAMES, H, W),
        "timestep": torch.full((2,), t),
        "encoder_hidden_states": randn(2, WORDS, 16),
    }


@tiny("CogVideoX", (FRAMES, H // 2, W // 2), joint=True, rows=("image_rotary_emb",))
def consisid(t=500.0):
    model = diffusers.ConsisIDTransformer3DModel(
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
        use_rotary_positional_embeddings=True,
    )
    return model, cogvideox(t)[1]
