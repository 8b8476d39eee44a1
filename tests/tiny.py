"""Random pipelines of a few thousand weights that behave like Stable Diffusion and like Flux."""

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    WanTransformer3DModel,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from mergekit_diff.experiments.models.embedded.text import new_tokenizer


def tiny_unet(seed: int = 0, **changes) -> UNet2DConditionModel:
    """Self- and cross-attention on two levels: 16x16 and 8x8 tokens."""
    torch.manual_seed(seed)
    settings = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "cross_attention_dim": 32,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**(settings | changes)).eval()


def tiny_pipeline(seed: int = 0, **unet_changes) -> StableDiffusionPipeline:
    """A whole text-to-image pipeline of 32x32 pictures (16x16 latents) with random weights."""
    unet = tiny_unet(seed, **unet_changes)
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
    )
    tokenizer = new_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    pipe = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_flux_transformer() -> FluxTransformer2DModel:
    """One double and one single block, for the captions of the embedded Flux-type model."""
    from mergekit_diff.experiments.models.embedded import captions

    torch.manual_seed(0)
    return FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=captions.WIDTH,
        pooled_projection_dim=256,
        axes_dims_rope=(4, 6, 6),
    )


def tiny_wan_transformer() -> WanTransformer3DModel:
    """One block, for the captions of the embedded video model."""
    from mergekit_diff.experiments.models.embedded import captions

    torch.manual_seed(0)
    return WanTransformer3DModel(
        patch_size=(1, 1, 1),
        num_attention_heads=1,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=captions.WIDTH,
        freq_dim=16,
        ffn_dim=16,
        num_layers=1,
        rope_max_seq_len=32,
    )


def tiny_flux_pipeline() -> FluxPipeline:
    """A whole pipeline of 32x32 images (64 tokens) with random weights, its last layers too, so that images depend on them."""
    from mergekit_diff.experiments.models.embedded import captions
    from mergekit_diff.experiments.models.embedded import text as clip
    from mergekit_diff.experiments.models.embedded.flux import model, text

    transformer = tiny_flux_transformer()
    nn.init.normal_(transformer.proj_out.weight)
    nn.init.normal_(transformer.norm_out.linear.weight)
    encoders = {
        "text_encoder": clip.new_text_encoder(text.new_tokenizer()),
        "text_encoder_2": text.new_text_encoder_2(captions.new_tokenizer()),
    }
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
        scaling_factor=1.0,
        shift_factor=0.0,
    )
    return model.new_pipeline(nn.ModuleDict({"transformer": transformer, **encoders}).eval(), vae.eval())
