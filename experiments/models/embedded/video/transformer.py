"""Stage ``transformer``: the Wan-type transformer and the text encoder, trained together by rectified flow.

First on images, which are videos of one frame and 256 tokens, then from those weights on videos of nine frames and 1,280 tokens,
which cost about seven times as much: what an emoji looks like is learnt at the lower price. Every video is drawn anew, since
drawing and encoding it takes a twentieth of a step.
"""

from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKLWan, WanPipeline
from torch import Tensor

from ....tasks import Call
from .. import captions, cutouts
from ..autoencoder import encode
from ..flow import Flow
from ..phase import Phase
from . import samples, text
from .model import new_modules, new_pipeline, new_scheduler
from .motions import FRAMES
from .samples import SIDE
from .vae import normalise


class VideoFlow(Flow):
    """The transformer and the text encoder in training, their mean weights, and the emoji of the training videos.

    Args:
        folder: work folder of all stages.
        size: frames of a video, 1 or 9.
        steps: total number of steps; None takes the phase's.
        rate: peak learning rate; None takes the phase's.
    """

    phases: ClassVar = {
        1: Phase("transformer-1", "transformer and text encoder, single frames as images", steps=2_000, batch=16, rate=3e-3),
        FRAMES: Phase("transformer-9", "the same, videos, from the mean weights of the images", steps=1_500, batch=4, rate=1.5e-3,
                      after="transformer-1"),
    }  # fmt: skip
    slower: ClassVar = {"text_encoder": 0.1}  # trained as fast as the rest, it soon gave the same states for all captions
    call = Call(arguments={"height": SIDE, "width": SIDE, "num_frames": FRAMES, "max_sequence_length": captions.LENGTH})
    prompts = ("a noto apple sliding left on blue", "a flat cat sliding right on a green gradient", "a 3d house rising on white",
               "a noto dog falling on yellow dots", "a flat rocket spinning on black", "a 3d penguin growing on orange",
               "a noto car shrinking on gray clouds", "a flat tulip bouncing on teal")  # fmt: skip
    columns = 2

    def __init__(self, folder: Path, size: int, steps: int | None = None, rate: float | None = None) -> None:
        super().__init__(folder, size, new_modules(), steps, rate)
        self.vae: AutoencoderKLWan = AutoencoderKLWan.from_pretrained(folder / "vae").eval().requires_grad_(False)
        self.tokenizer = text.new_tokenizer()
        self.cutouts = cutouts.select(cutouts.load(folder), cutouts.pairs())

    @property
    def shift(self) -> float:
        """That of sampling for videos; for images as for 256 tokens in ``emoji-flux``."""
        return new_scheduler().config["shift"] if self.size > 1 else 1.65

    def sample(self, random: torch.Generator) -> tuple[Tensor, list[str]]:
        """(B, 16, f, 16, 16) latents of emoji moving on random backgrounds, or of single frames."""
        videos, drawn = samples.captioned(self.cutouts, self.phase.batch, self.size, random)
        return normalise(self.vae, encode(self.vae, videos).float()), drawn

    def velocity(self, noisy: Tensor, level: Tensor, captions: list[str]) -> Tensor:
        """The transformer's prediction of noise minus latents, (B, 16, f, 16, 16)."""
        return self.model["transformer"](
            hidden_states=noisy,
            timestep=1000 * level,
            encoder_hidden_states=text.encode(self.tokenizer, self.model["text_encoder"], captions),
            return_dict=False,
        )[0]

    def pipeline(self) -> WanPipeline:
        """The model with its mean weights, as users load it."""
        return new_pipeline(self.ema.model, self.vae)

    def arguments(self) -> dict[str, Any]:
        """The number of frames."""
        return {"num_frames": self.size}
