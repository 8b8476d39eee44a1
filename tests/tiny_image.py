"""Tiny random transformers that make images."""

import diffusers
import torch
from tiny_family import WORDS, H, W, randn, tiny


def _ids(image: int) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    return torch.stack([torch.full_like(rows, image), rows, columns], -1).flatten(0, 1).float()


@tiny("Flux, Kontext", (H, W), joint=True, rows=("image_rotary_emb",))
def flux(t=0.5, references=0):
    model = diffusers.FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    ids = torch.cat([_ids(image) for image in range(1 + references)])
    return model, {
        "hidden_states": randn(2, len(ids), 4),
        "encoder_hidden_states": randn(2, WORDS, 32),
        "pooled_projections": randn(2, 32),
        "timestep": torch.full((2,), t),
        "img_ids": ids,
        "txt_ids": torch.zeros(WORDS, 3),
    }


@tiny("Flux, Kontext", (H, W), joint=True, rows=("image_rotary_emb",))
def kontext(t=0.5):
    return flux(t, references=1)


@tiny("Stable Diffusion 3, 3.5", (H, W), joint=True)
def sd3(t=500.0, **changes):
    model = diffusers.SD3Transformer2DModel(
        sample_size=32,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=64,
        out_channels=4,
        pos_embed_max_size=24,
        **changes,
    )
    return model, {
        "hidden_states": randn(2, 4, 2 * H, 2 * W),
        "encoder_hidden_states": randn(2, WORDS, 32),
        "pooled_projections": randn(2, 64),
        "timestep": torch.full((2,), t),
    }


@tiny("Stable Diffusion 3, 3.5", (H, W), joint=True)
def sd35(t=500.0):
    return sd3(t, dual_attention_layers=(0,), qk_norm="rms_norm")


@tiny("PixArt", (H, W))
def pixart(t=500.0):
    model = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        cross_attention_dim=16,
        sample_size=16,
        caption_channels=32,
        use_additional_conditions=False,
    )
    return model, {
        "hidden_states": randn(2, 4, 2 * H, 2 * W),
        "encoder_hidden_states": randn(2, WORDS, 32),
        "timestep": torch.full((2,), t),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        "encoder_attention_mask": torch.ones(2, WORDS),
    }


@tiny("Qwen-Image", (H, W), joint=True, rows=("image_rotary_emb",))
def qwen_image(t=0.5, references=0, **changes):
    model = diffusers.QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=3,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
        **changes,
    )
    mask = torch.ones(2, WORDS, dtype=torch.bool)
    mask[1, 4:] = False
    return model, {
        "hidden_states": randn(2, (1 + references) * H * W, 16),
        "encoder_hidden_states": randn(2, WORDS, 16),
        "encoder_hidden_states_mask": mask,
        "timestep": torch.full((2,), t),
        "img_shapes": [[(1, H, W)] * (1 + references)] * 2,
    }


@tiny("Qwen-Image", (H, W), joint=True, rows=("image_rotary_emb", "modulate_index"))
def qwen_edit(t=0.5):
    return qwen_image(t, references=1, zero_cond_t=True)


@tiny("Z-Image", (8, 10), joint=True, rows=("freqs_cis", "attention_mask", "attn_mask"))
def z_image(t=0.5, h=8, w=10):
    """80 tokens, padded to 96; captions of two lengths."""
    model = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    return model, {
        "x": [randn(4, 1, 2 * h, 2 * w, seed=seed) for seed in range(2)],
        "t": torch.full((2,), t),
        "cap_feats": [randn(words, 16, seed=words) for words in (5, 40)],
    }
