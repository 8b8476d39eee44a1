"""Tiny random transformers and U-Nets that make audio."""

import diffusers
import torch
from diffusers.pipelines.audioldm2.modeling_audioldm2 import AudioLDM2UNet2DConditionModel
from tiny_family import WORDS, randn, tiny

LENGTH = 44  # tokens of a line


def _turns(tokens: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    angles = 3 * randn(tokens, width // 2, seed=5)
    return tuple(torch.cat([f(angles)] * 2, -1) for f in (torch.cos, torch.sin))


@tiny("Stable Audio", (LENGTH,), rows=("rotary_embedding", "rotary_emb"))
def stable_audio(t=0.5):
    model = diffusers.StableAudioDiTModel(
        sample_size=LENGTH,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        num_key_value_attention_heads=2,
        cross_attention_dim=16,
        time_proj_dim=8,
        global_states_input_dim=32,
        cross_attention_input_dim=16,
    )
    return model, {
        "hidden_states": randn(2, 4, LENGTH),
        "timestep": torch.full((1,), t),
        "encoder_hidden_states": randn(2, WORDS, 16),
        "global_hidden_states": randn(2, 1, 32),
        "rotary_embedding": _turns(1 + LENGTH, 4),
    }


@tiny("ACE-Step", (LENGTH,), rows=("position_embeddings", "image_rotary_emb", "attention_mask"))
def ace_step(t=0.5):
    model = diffusers.AceStepTransformer1DModel(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        in_channels=12,
        audio_acoustic_hidden_dim=4,
        sliding_window=6,
    )
    return model, {
        "hidden_states": randn(2, 2 * LENGTH - 1, 4),
        "timestep": torch.full((2,), t),
        "timestep_r": torch.full((2,), t),
        "encoder_hidden_states": randn(2, WORDS, 16),
        "context_latents": randn(2, 2 * LENGTH - 1, 8),
    }


@tiny("AudioLDM 2")
def audioldm2(t=500):
    model = AudioLDM2UNet2DConditionModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=((None, 8), (None, 8)),
    )
    return model, {
        "sample": randn(2, 4, 16, 8),
        "timestep": torch.tensor(t),
        "encoder_hidden_states": randn(2, WORDS, 8),
        "encoder_hidden_states_1": randn(2, WORDS, 8),
    }


@tiny("Stable Audio 3", (LENGTH,), rows=("rope", "local_seq"))
def stable_audio_3(t=0.5):
    model = diffusers.StableAudio3DiTModel(
        io_channels=4,
        embed_dim=16,
        depth=2,
        num_heads=2,
        cond_token_dim=12,
        global_cond_dim=12,
        local_add_cond_dim=6,
        timestep_features_dim=8,
        num_memory_tokens=3,
    )
    return model, {
        "hidden_states": randn(2, 4, LENGTH),
        "timestep": torch.full((2,), t),
        "encoder_hidden_states": randn(2, WORDS, 12),
        "global_hidden_states": randn(2, 12),
        "local_add_cond": randn(2, 6, LENGTH),
    }


@tiny("MiniMax Music 3", (LENGTH,), rows=("rotary_emb",), without=("cross_attention",))
def minimax_music(t=500.0):
    model = diffusers.MiniMaxMusic3Transformer1DModel(
        in_channels=4,
        condition_dim=8,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        ff_inner_dim=24,
        rotary_dim=4,
        fourier_embedding_dim=8,
    )
    return model, {
        "hidden_states": randn(2, 4, LENGTH),
        "timestep": torch.full((2,), t),
        "encoder_hidden_states": randn(2, LENGTH, 8),
    }


@tiny(
    "LongCat-Audio",
    (LENGTH,),
    rows=("rope", "audio_rotary_emb", "mask", "attention_mask"),
    without=("cross_attention",),
)
def longcat_audio(t=0.5):
    model = diffusers.LongCatAudioDiTTransformer(dit_dim=16, dit_depth=2, dit_heads=2, dit_text_dim=8, latent_dim=4)
    masks = torch.ones(2, LENGTH, dtype=torch.bool), torch.ones(2, WORDS, dtype=torch.bool)
    for mask in masks:
        mask[1, -3:] = False
    return model, {
        "hidden_states": randn(2, LENGTH, 4),
        "encoder_hidden_states": randn(2, WORDS, 8),
        "encoder_attention_mask": masks[1],
        "timestep": torch.full((2,), t),
        "attention_mask": masks[0],
    }
