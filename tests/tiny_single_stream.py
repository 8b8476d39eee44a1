"""Tiny random image transformers in which every block holds the image, alone or in one sequence with the text."""

import diffusers
import torch
from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina
from tiny_family import WORDS, H, W, randn, tiny
from tiny_image import ids_of


@tiny("Krea 2", (H, W), joint=True, rows=("image_rotary_emb", "attention_mask"))
def krea2(t=0.5):
    model = diffusers.Krea2Transformer2DModel(
        in_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=32,
        timestep_embed_dim=16,
        text_hidden_dim=16,
        num_text_layers=2,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 4, 8),
    )
    mask = torch.ones(2, WORDS, dtype=torch.bool)
    mask[1, 4:] = False
    return model, {
        "hidden_states": randn(2, H * W, 4),
        "encoder_hidden_states": randn(2, WORDS, 2, 16),
        "timestep": torch.full((2,), t),
        "position_ids": torch.cat([torch.zeros(WORDS, 3), ids_of(0)]),
        "encoder_attention_mask": mask,
    }


@tiny("Ideogram 4", (H, W), joint=True, rows=("image_rotary_emb", "attention_mask"))
def ideogram4(t=0.5):
    """The second row's text is shorter, behind padding."""
    model = diffusers.Ideogram4Transformer2DModel(
        in_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        intermediate_size=32,
        adaln_dim=16,
        llm_features_dim=16,
        mrope_section=(4, 2, 2),
    )
    length, lengths = WORDS + H * W, (WORDS, 4)
    places, segments = torch.zeros(2, length, 3, dtype=torch.long), torch.full((2, length), -1)
    indicator = torch.zeros(2, length, dtype=torch.long)
    for row, words in enumerate(lengths):
        begin = WORDS - words
        places[row, begin:WORDS] = torch.arange(words)[:, None]
        places[row, WORDS:] = ids_of(0).long() + 20
        segments[row, begin:] = 1
        indicator[row, begin:WORDS], indicator[row, WORDS:] = 3, 2
    return model, {
        "hidden_states": randn(2, length, 4),
        "timestep": torch.full((2,), t),
        "encoder_hidden_states": randn(2, length, 16),
        "position_ids": places,
        "segment_ids": segments,
        "indicator": indicator,
    }


@tiny("OmniGen", (H, W), joint=True, rows=("image_rotary_emb", "attention_mask"))
def omnigen(t=0.5):
    """Words see those before them, the image sees all."""
    model = diffusers.OmniGenTransformer2DModel(
        hidden_size=32,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
        num_layers=2,
        pad_token_id=0,
        vocab_size=100,
        rope_scaling={"long_factor": [1.0] * 8, "short_factor": [1.0] * 8},
        pos_embed_max_size=16,
        time_step_dim=16,
    )
    length = WORDS + 1 + H * W
    mask = torch.ones(2, length, length).tril()
    mask[:, -H * W :] = 1
    mask[1, :, :2] = 0
    mask[1, :2, :2] = torch.eye(2)
    return model, {
        "hidden_states": randn(2, 4, 2 * H, 2 * W),
        "timestep": torch.full((2,), t),
        "input_ids": (50 + 9 * randn(2, WORDS)).long(),
        "input_img_latents": [],
        "input_image_sizes": {},
        "attention_mask": mask,
        "position_ids": torch.arange(length).expand(2, -1),
    }


@tiny("Lumina-Next", (H, W), rows=("image_rotary_emb", "attention_mask"), without=("self_attention", "cross_attention"))
def lumina_next(t=0.5):
    model = diffusers.LuminaNextDiT2DModel(
        sample_size=16,
        hidden_size=32,
        num_layers=2,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        cross_attention_dim=16,
    )
    torch.nn.init.zeros_(model.pad_token)
    mask = torch.ones(2, WORDS)
    mask[1, 4:] = 0
    return model, {
        "hidden_states": randn(2, 4, 2 * H, 2 * W),
        "timestep": torch.full((2,), t),
        "encoder_hidden_states": randn(2, WORDS, 16),
        "encoder_mask": mask,
        "image_rotary_emb": get_2d_rotary_pos_embed_lumina(16, 16, 16),
        "cross_attention_kwargs": {},
    }


@tiny("PRX", (H, W), joint=True, rows=("image_rotary_emb",), without=("feed_forward",))
def prx(t=0.5):
    model = diffusers.PRXTransformer2DModel(
        in_channels=4, context_in_dim=16, hidden_size=32, mlp_ratio=1.0, num_heads=2, depth=2, axes_dim=[8, 8]
    )
    mask = torch.ones(2, WORDS, dtype=torch.bool)
    mask[1, 4:] = False
    return model, {
        "hidden_states": randn(2, 4, 2 * H, 2 * W),
        "timestep": torch.full((2,), t),
        "encoder_hidden_states": randn(2, WORDS, 16),
        "attention_mask": mask,
    }
