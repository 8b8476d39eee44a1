"""Tiny random image transformers whose blocks hold image and text as two streams, or the text as keys alone."""

import diffusers
import torch
from tiny_family import WORDS, H, W, randn, tiny
from tiny_image import ids_of


@tiny("GLM-Image", (H, W), joint=True, rows=("image_rotary_emb",))
def glm_image(t=500.0):
    model = diffusers.GlmImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        text_embed_dim=16,
        time_embed_dim=16,
        condition_dim=4,
        prior_vq_quantizer_codebook_size=8,
    )
    mask = torch.ones(2, WORDS)
    mask[1, :3] = 0
    return model, {
        "hidden_states": randn(2, 4, 2 * H, 2 * W),
        "encoder_hidden_states": randn(2, WORDS, 16),
        "prior_token_id": (4 + randn(2, H * W)).long().clamp(0, 7),
        "prior_token_drop": torch.zeros(2, H * W, dtype=torch.bool),
        "timestep": torch.full((2,), t),
        "target_size": torch.full((2, 2), 16.0),
        "crop_coords": torch.zeros(2, 2),
        "attention_mask": mask,
    }


@tiny("JoyImage-Edit", (1, H, W), joint=True, rows=("image_rotary_emb",))
def joyimage(t=500.0, images=1):
    """The last image is the one that is made."""
    model = diffusers.JoyImageEditTransformer3DModel(
        in_channels=4, hidden_size=32, num_attention_heads=2, text_dim=16, num_layers=2, rope_dim_list=[4, 4, 8]
    )
    return model, {
        "hidden_states": randn(2, images, 4, 1, 2 * H, 2 * W),
        "timestep": torch.full((2,), t),
        "encoder_hidden_states": randn(2, WORDS, 16),
    }


@tiny("JoyImage-Edit", (1, H, W), joint=True, rows=("image_rotary_emb",))
def joyimage_with_another(t=500.0):
    return joyimage(t, images=2)


@tiny("Nucleus-Image", (H, W), joint=True, rows=("image_rotary_emb", "attention_mask", "attention_kwargs"))
def nucleus(t=0.5):
    """The second block has experts."""
    model = diffusers.NucleusMoEImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 4, 8),
        dense_moe_strategy="leave_first_block_dense",
        mlp_ratio=4.0,
        num_experts=4,
        moe_intermediate_dim=16,
        capacity_factors=2.0,
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "experts" in name:  # born with whatever the memory held
                parameter.normal_(0, 0.1)
    mask = torch.ones(2, WORDS, dtype=torch.bool)
    mask[1, 4:] = False
    return model, {
        "hidden_states": randn(2, H * W, 16),
        "img_shapes": [[(1, H, W)]] * 2,
        "encoder_hidden_states": randn(2, WORDS, 16),
        "encoder_hidden_states_mask": mask,
        "timestep": torch.full((2,), t),
    }


@tiny("Flux 3", (H, W), joint=True, rows=("image_rotary_emb", "temb_mod"))
def flux3(t=0.5, condition=False):
    model = diffusers.Flux3Transformer2DModel(
        in_channels=4,
        cond_in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        timestep_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
    )
    inputs = {
        "hidden_states": randn(2, H * W, 4),
        "encoder_hidden_states": randn(2, WORDS, 16),
        "timestep": torch.full((2,), t),
        "img_ids": _four(ids_of(0)),
        "txt_ids": _four(torch.zeros(WORDS, 3)),
    }
    if condition:
        inputs |= {"image_cond_hidden_states": randn(2, H * W, 4, seed=2), "image_cond_ids": _four(ids_of(1))}
    return model, inputs


@tiny("Flux 3", (H, W), joint=True, rows=("image_rotary_emb", "temb_mod"))
def flux3_edit(t=0.5):
    return flux3(t, condition=True)


def _four(ids: torch.Tensor) -> torch.Tensor:
    return torch.cat([ids, torch.zeros(len(ids), 1)], 1)
