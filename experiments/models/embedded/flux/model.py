"""The parts of ``emoji-flux``: the transformer, its schedule, and the pipeline that holds all parts together."""

import math
import re

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor, nn

from .. import captions
from .. import text as clip
from ..initial import initialise
from . import text

CHANNELS = 4  # of a latent
PATCH = 2  # latents on a side of one token, as FluxPipeline packs them
FACTOR = 2  # pixels on a side of one latent


def new_transformer() -> FluxTransformer2DModel:
    """Two double and four single blocks with four heads of 48: 5.2 M parameters, 4.3 GFLOP for an image of 256 tokens.

    FLOPs decided: small transformers need more images rather than more parameters. On one core that others used too, training
    took 15 images a second at 256 tokens and 3 at 1,024 (bf16 autocast, CPU time, with everything else in a step); with two more
    single blocks it took 12 and 2.
    """
    transformer = FluxTransformer2DModel(
        in_channels=CHANNELS * PATCH**2,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=48,
        num_attention_heads=4,
        joint_attention_dim=captions.WIDTH,
        pooled_projection_dim=clip.WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(8, 20, 20),
    )
    initialise(
        transformer,
        zero=lambda name: name == "proj_out" or re.search(r"norm(1|1_context|_out)?\.linear$", name) is not None,
        small=lambda name: name.startswith("time_text_embed."),
    )
    return transformer


def new_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Rectified flow; the number of tokens shifts the noise levels, both in sampling and in training.

    With four times the tokens, twice the odds of noise are needed to hide the same detail, so the shift grows by ln 2.
    Esser et al. (2024), arXiv 2403.03206, section 5.3.2.
    """
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_image_seq_len=256, max_image_seq_len=1024, base_shift=0.5, max_shift=1.19
    )


def new_modules() -> nn.ModuleDict:
    """The modules that are trained together, the transformer and both text encoders, always with the same initial weights."""
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "transformer": new_transformer(),
            "text_encoder": clip.new_text_encoder(text.new_tokenizer()),
            "text_encoder_2": text.new_text_encoder_2(captions.new_tokenizer()),
        }
    )


def new_pipeline(modules: nn.ModuleDict, vae: AutoencoderKL) -> FluxPipeline:
    """The model as users load it."""
    pipe = FluxPipeline(
        scheduler=new_scheduler(),
        vae=vae,
        text_encoder=modules["text_encoder"],
        tokenizer=text.new_tokenizer(),
        text_encoder_2=modules["text_encoder_2"],
        tokenizer_2=captions.new_tokenizer(),
        transformer=modules["transformer"],
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def side(tokens: int) -> int:
    """Side in pixels of a square image of this many tokens: 64 for 256, 128 for 1,024."""
    return round(tokens**0.5) * PATCH * FACTOR


def pack(latents: Tensor) -> Tensor:
    """(B, 4, h, w) latents to (B, hw / 4, 16) tokens, as the pipeline does."""
    b, c, h, w = latents.shape
    return FluxPipeline._pack_latents(latents, b, c, h, w)


def positions(tokens: int) -> Tensor:
    """(tokens, 3) positions of the tokens of a square image: 0, row, column."""
    edge = round(tokens**0.5)
    return FluxPipeline._prepare_latent_image_ids(1, edge, edge, torch.device("cpu"), torch.float32)


def shift(tokens: int) -> float:
    """How much the odds of a noise level are raised for an image of this many tokens, as the pipeline does."""
    config = new_scheduler().config
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    return math.exp(calculate_shift(tokens, *(config[name] for name in names)))
