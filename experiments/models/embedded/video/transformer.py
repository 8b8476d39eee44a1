"""Stage ``transformer``: the Wan-type transformer and the text encoder, trained together by rectified flow.

First on images, which are videos of one frame and 256 tokens, then from those weights on videos of nine frames and 1,280 tokens,
which cost about seven times as much: what an emoji looks like is learnt at the lower price.
"""

from pathlib import Path

import lightning as L
import torch
from diffusers import AutoencoderKLWan, WanPipeline
from torch import Tensor

from ....tasks import Call
from .. import flow
from ..training import save_sheet
from . import latents, samples, text
from .model import new_modules, new_pipeline, new_scheduler, shifted
from .motions import FRAMES
from .scenes import SIDE

STEPS = {1: 20_000, FRAMES: 12_000}
BATCH = {1: 16, FRAMES: 4}
RATE = {1: 1e-3, FRAMES: 5e-4}
SHIFT = {1: 1.65, FRAMES: new_scheduler().config["shift"]}  # of noise levels: as for 256 tokens in emoji-flux, as in sampling
STEPS_OF_A_VIDEO, GUIDANCE = 16, 2.5
CALL = Call(arguments={"height": SIDE, "width": SIDE, "num_frames": FRAMES, "max_sequence_length": text.LENGTH})
SHEET = ("a noto apple sliding left on blue", "a flat cat sliding right on a green gradient", "a 3d house rising on white",
         "a noto dog falling on yellow dots", "a flat rocket spinning on black", "a 3d penguin growing on orange",
         "a noto car shrinking on gray clouds", "a flat tulip bouncing on teal")  # fmt: skip


class VideoFlow(flow.Flow):
    """The transformer and the text encoder in training, their mean weights, and the training set.

    Args:
        folder: work folder of all stages.
        frames: of a video, 1 or 9.
        steps: total number of steps.
        rate: peak learning rate.
    """

    def __init__(self, folder: Path, frames: int, steps: int, rate: float) -> None:
        super().__init__(new_modules(), steps, rate)
        self.folder, self.frames = folder, frames
        self.vae: AutoencoderKLWan = AutoencoderKLWan.from_pretrained(folder / "vae").eval().requires_grad_(False)
        self.tokenizer = text.new_tokenizer()
        self.latents = latents.load(folder)

    def sample(self, random: torch.Generator) -> tuple[Tensor, list[str]]:
        """(B, 16, f, 16, 16) latents of videos, or of their first frames, and their captions."""
        return samples.captioned(self.latents, BATCH[self.frames], self.frames, random)

    def noise_levels(self, n: int, random: torch.Generator) -> Tensor:
        """(n,) shares of noise in (0, 1): logit-normal, shifted for this number of tokens."""
        return shifted(torch.sigmoid(torch.randn(n, generator=random)), SHIFT[self.frames])

    def velocity(self, noisy: Tensor, level: Tensor, captions: list[str]) -> Tensor:
        """The transformer's prediction of noise minus latents, (B, 16, f, 16, 16)."""
        states = text.encode(self.tokenizer, self.model["text_encoder"], captions)
        return self.model["transformer"](
            hidden_states=noisy,
            timestep=1000 * level,
            encoder_hidden_states=states,
            return_dict=False,
        )[0]

    def pipeline(self) -> WanPipeline:
        """The model with its mean weights, as users load it."""
        return new_pipeline(self.ema.model, self.vae)

    def draw(self, path: Path) -> Path:
        """Draw the prompts of ``SHEET``, each from its own noise and as a row of frames, in two columns; returns ``path``."""
        generators = [torch.Generator().manual_seed(i) for i in range(len(SHEET))]
        call = CALL.keywords(GUIDANCE) | {"num_inference_steps": STEPS_OF_A_VIDEO, "num_frames": self.frames}
        videos = self.pipeline()(list(SHEET), generator=generators, output_type="pt", return_dict=False, **call)[0]
        save_sheet(videos.transpose(1, 2) * 2 - 1, path, columns=2)
        return path

    def sheet(self, step: int) -> Path:
        """Where the sheet of a step belongs."""
        return self.folder / f"sheet-{self.frames}-{step:06d}.png"


def train(folder: Path, frames: int, steps: int | None = None, rate: float | None = None) -> None:
    """Train with videos of ``frames`` frames, resuming from ``folder``; with nine it begins with the weights of one.

    Args:
        folder: work folder of all stages, with what the stages ``data``, ``vae`` and ``latents`` wrote.
        frames: 1 or 9.
        steps: total number of steps; None takes ``STEPS``.
        rate: peak learning rate; None takes ``RATE``.
    """
    L.seed_everything(0)
    module = VideoFlow(folder, frames, steps or STEPS[frames], rate or RATE[frames])
    flow.train(module, folder, name(frames), start=name(1) if frames > 1 else None)


def name(frames: int) -> str:
    """Name of the training with this number of frames, for its checkpoints and its log."""
    return f"transformer-{frames}"
