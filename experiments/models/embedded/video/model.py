"""The parts of ``emoji-video``: an ordinary WanPipeline, made small.

Why Wan (Wan et al. 2025, arXiv 2503.20314) and not CogVideoX (Yang et al. 2024, arXiv 2408.06072), whose parts can be made small
as well: text enters by cross-attention, so that both kinds are there to merge in, since ``emoji-flux`` attends jointly. The
autoencoder can take 2x2 pixels at once, at a quarter of the cost, and halve time instead of quartering it. The first frame is a
latent frame of its own, as in CogVideoX, so that an image is a video of one frame and the transformer can learn on images first.
"""

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from torch import nn

from ..captions import WIDTH
from ..initial import initialise
from . import text
from .motions import FRAMES
from .samples import SIDE

CHANNELS = 16  # of a latent
FACTOR, TEMPORAL_FACTOR = 4, 2  # pixels on a side of one latent, and frames in one
TOKENS = {1: (SIDE // FACTOR) ** 2, FRAMES: ((FRAMES - 1) // TEMPORAL_FACTOR + 1) * (SIDE // FACTOR) ** 2}
"""Tokens by the number of frames: 256 and 1,280, one a latent."""


def new_vae() -> AutoencoderKLWan:
    """(B, 3, F, 64, 64) videos in [-1, 1] to (B, 16, 1 + (F - 1) / 2, 16, 16) latents; F - 1 a multiple of 4."""
    return AutoencoderKLWan(
        base_dim=32,
        z_dim=CHANNELS,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_temporal=TEMPORAL_FACTOR,
        scale_factor_spatial=FACTOR,
    )


def new_transformer() -> WanTransformer3DModel:
    """Eight blocks with four heads of 48, five million parameters: as many as the images' transformer has.

    A token is one latent: larger patches would leave 320 tokens of a video.
    """
    transformer = WanTransformer3DModel(
        patch_size=(1, 1, 1),
        num_attention_heads=4,
        attention_head_dim=48,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=WIDTH,
        freq_dim=256,
        ffn_dim=768,
        num_layers=8,
        rope_max_seq_len=64,
    )
    initialise(
        transformer,
        zero=lambda name: name == "proj_out",
        small=lambda name: name.startswith("condition_embedder.time_embedder."),
    )
    return transformer


def new_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Rectified flow; noise levels are raised as for 1,024 tokens in ``emoji-flux``: neighbouring frames show the same."""
    return FlowMatchEulerDiscreteScheduler(shift=3.0)


def new_modules() -> nn.ModuleDict:
    """The modules that are trained together, the transformer and the text encoder, always with the same initial weights."""
    torch.manual_seed(0)
    return nn.ModuleDict({"transformer": new_transformer(), "text_encoder": text.new_text_encoder(text.new_tokenizer())})


def new_pipeline(modules: nn.ModuleDict, vae: AutoencoderKLWan) -> WanPipeline:
    """The model as users load it."""
    pipe = WanPipeline(
        tokenizer=text.new_tokenizer(),
        text_encoder=modules["text_encoder"],
        vae=vae,
        scheduler=new_scheduler(),
        transformer=modules["transformer"],
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
