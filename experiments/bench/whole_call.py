"""A whole call of a text-to-image pipeline with few steps: what a user waits for, with text encoder and autoencoder around it.

As a distilled model is called: without guidance, so that the U-Net has a row for every image. All weights are random.
"""

from dataclasses import dataclass
from typing import Any

import torch

from .config import CALL_STEPS, Bench
from .filling import TIMESTEP, Subject

TEXT_ENCODER: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
AUTOENCODER: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
"""Those of Stable Diffusion 1.5."""


@dataclass(frozen=True, kw_only=True)
class WholeCall(Subject):
    """A pipeline and how it is called.

    Args:
        pipe: whose U-Net is ``model``.
        size: height and width in pixels.
    """

    pipe: Any
    size: tuple[int, int]

    @torch.no_grad()
    def call(self, timestep: float = TIMESTEP) -> None:
        """From token ids to 8-bit images; the timesteps are those of the scheduler."""
        states = self.pipe.text_encoder(self.others["ids"])[0]
        height, width = self.size
        self.pipe(
            prompt_embeds=states,
            latents=self.sample.clone(),
            num_inference_steps=CALL_STEPS,
            guidance_scale=1.0,
            height=height,
            width=width,
        )


def whole_call(unet: Subject, bench: Bench) -> WholeCall:
    """A pipeline around a U-Net, on its device and of its dtype.

    Args:
        unet: that of Stable Diffusion 1.5, with the latents of ``bench``.
        bench: the measurement.
    """
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        text_encoder: Any = CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER)).eval()
        parts: dict[str, Any] = {"text_encoder": text_encoder, "vae": AutoencoderKL(**AUTOENCODER).eval()}
    parts |= {"unet": unet.model, "scheduler": EulerDiscreteScheduler(), "requires_safety_checker": False}
    parts |= dict.fromkeys(("tokenizer", "safety_checker", "feature_extractor", "image_encoder"))
    pipe: Any = StableDiffusionPipeline(**parts)
    pipe.to(unet.sample.device, unet.sample.dtype)
    pipe.set_progress_bar_config(disable=True)
    ids = torch.zeros(len(unet.sample), text_encoder.config.max_position_embeddings, dtype=torch.long, device=pipe.device)
    return WholeCall(unet.model, unet.sample, {"ids": ids}, unet.latents, pipe=pipe, size=bench.height_and_width())
