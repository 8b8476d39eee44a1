"""Stage ``transformer``: the Flux-type transformer and both text encoders, trained together by rectified flow.

First at 64x64, where an image is 256 tokens, then from those weights at 128x128, where it is 1,024 tokens and costs five times as
much. The frozen autoencoder runs on each batch (a tenth of a step), since no image is drawn twice with the same background.
"""

from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, FluxPipeline
from torch import Tensor

from ....tasks import Call
from .. import captions, cutouts
from ..autoencoder import encode
from ..flow import Flow
from ..phase import Phase
from . import samples, text
from .model import new_modules, new_pipeline, pack, positions, shift, side


class ImageFlow(Flow):
    """The transformer and both text encoders in training, their mean weights, and the training images.

    Args:
        folder: work folder of all stages.
        size: image tokens, 256 or 1,024.
        steps: total number of steps; None takes the phase's.
        rate: peak learning rate; None takes the phase's.
    """

    phases: ClassVar = {
        256: Phase("transformer-256", "transformer and text encoders, 64x64", steps=2_000, batch=32, rate=3e-3),
        1024: Phase("transformer-1024", "the same, 128x128, from the mean weights of 64x64", steps=2_200, batch=16, rate=1.5e-3,
                    after="transformer-256"),
    }  # fmt: skip
    call = Call("true_cfg_scale", {"negative_prompt": "", "max_sequence_length": captions.LENGTH})
    prompts = ("a noto apple on blue", "a flat cat on a green gradient", "a 3d house on white", "a noto dog on yellow dots",
               "a flat rocket on black", "a 3d penguin on orange", "a noto car on gray clouds", "a flat tulip on teal",
               "a 3d donut on purple checks", "a noto mushroom", "a flat fox on pink stripes", "a cactus")  # fmt: skip
    columns = 6

    def __init__(self, folder: Path, size: int, steps: int | None = None, rate: float | None = None) -> None:
        super().__init__(folder, size, new_modules(), steps, rate)
        self.vae: AutoencoderKL = AutoencoderKL.from_pretrained(folder / "vae").eval().requires_grad_(False)
        self.tokenizers = (text.new_tokenizer(), captions.new_tokenizer())
        self.cutouts = cutouts.select(cutouts.load(folder), cutouts.pairs())

    @property
    def shift(self) -> float:
        """As the scheduler's for this number of tokens."""
        return shift(self.size)

    def sample(self, random: torch.Generator) -> tuple[Tensor, list[str]]:
        """(B, tokens, 16) packed latents of emoji on random backgrounds."""
        images, drawn = samples.captioned(self.cutouts, self.phase.batch, side(self.size), random)
        return pack(encode(self.vae, images)).float(), drawn  # under autocast the autoencoder's last layer gives bf16

    def velocity(self, noisy: Tensor, level: Tensor, captions: list[str]) -> Tensor:
        """The transformer's prediction of noise minus image, (B, tokens, 16)."""
        ids, ids_2 = (text.tokenize(tokenizer, captions) for tokenizer in self.tokenizers)
        states = self.model["text_encoder_2"](ids_2)[0]
        return self.model["transformer"](
            hidden_states=noisy,
            timestep=level,
            pooled_projections=self.model["text_encoder"](ids).pooler_output,
            encoder_hidden_states=states,
            txt_ids=torch.zeros(states.shape[1], 3),
            img_ids=positions(self.size),
            return_dict=False,
        )[0]

    def pipeline(self) -> FluxPipeline:
        """The model with its mean weights, as users load it."""
        return new_pipeline(self.ema.model, self.vae)

    def arguments(self) -> dict[str, Any]:
        """Height and width."""
        return {"height": side(self.size), "width": side(self.size)}
