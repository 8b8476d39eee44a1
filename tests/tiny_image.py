"""Tiny random transformers that make images."""

import diffusers
import torch
from tiny_family import WORDS, H, W, randn, tiny


def ids_of(image: int) -> torch.Tensor:
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
    ids = torch.cat([ids_of(image) for image in range(1 + references)])
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


@tiny("DiT", (H, H), without=("cross_attention",))
def dit(t=500.0, classes=10):
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        out_channels=8,
        num_layers=2,
        sample_size=2 * H,
        num_embeds_ada_norm=classes,
    )
    return model, {
        "hidden_states": randn(2, 4, 2 * H, 2 * H),  # it takes squares alone
        "timestep": torch.full((2,), t),
        "class_labels": torch.tensor([3, classes]),
    }


@tiny("HunyuanDiT", (H, W), rows=("image_rotary_emb",))
def hunyuan_dit(t=500.0):
    """The last of its blocks has the skip connection."""
    model = diffusers.HunyuanDiT2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        patch_size=2,
        sample_size=16,
        hidden_size=32,
        num_layers=4,
        cross_attention_dim=16,
        cross_attention_dim_t5=16,
        pooled_projection_dim=16,
        text_len=WORDS,
        text_len_t5=WORDS,
    )
    angles = 3 * randn(H * W, 8, seed=5)
    mask = torch.ones(2, WORDS)
    mask[1, 4:] = 0
    return model, {
        "hidden_states": randn(2, 4, 2 * H, 2 * W),
        "timestep": torch.full((2,), t),
        "encoder_hidden_states": randn(2, WORDS, 16),
        "text_embedding_mask": mask,
        "encoder_hidden_states_t5": randn(2, WORDS, 16, seed=1),
        "text_embedding_mask_t5": torch.ones(2, WORDS),
        "image_meta_size": torch.ones(2, 6),
        "style": torch.zeros(2, dtype=torch.long),
        "image_rotary_emb": tuple(f(angles).repeat_interleave(2, -1) for f in (torch.cos, torch.sin)),
    }


@tiny("Sana", (H, W), without=("feed_forward", "block"))
def sana(t=500.0):
    model = diffusers.SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
    )
    return model, {
        "hidden_states": randn(2, 4, H, W),
        "encoder_hidden_states": randn(2, WORDS, 16),
        "timestep": torch.full((2,), t),
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
