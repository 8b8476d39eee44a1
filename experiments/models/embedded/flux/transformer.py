"""Stage ``transformer``: the Flux-type transformer and both text encoders, trained together by rectified flow.

First at 64x64, where an image is 256 tokens, then from those weights at 128x128, where it is 1,024 tokens and costs six times as
much. The frozen autoencoder runs on each batch (a tenth of a step), since no image is drawn twice with the same background.
"""

from pathlib import Path

import lightning as L
import torch
from diffusers import AutoencoderKL, FluxPipeline
from torch import Tensor

from ....tasks import Call
from .. import flow
from ..training import save_sheet
from ..vae import encode
from . import data, samples, text
from .model import new_modules, new_pipeline, new_scheduler, pack, positions, shift, side

STEPS = {256: 25_000, 1024: 6_000}
BATCH = {256: 16, 1024: 8}
RATE = {256: 1e-3, 1024: 5e-4}
STEPS_OF_AN_IMAGE, GUIDANCE = 16, 2.5
CALL = Call("true_cfg_scale", {"negative_prompt": "", "max_sequence_length": text.LENGTH})
SAMPLING = {"num_inference_steps": STEPS_OF_AN_IMAGE} | CALL.keywords(GUIDANCE)
SHEET = ("a noto apple on blue", "a flat cat on a green gradient", "a 3d house on white", "a noto dog on yellow dots",
         "a flat rocket on black", "a 3d penguin on orange", "a noto car on gray clouds", "a flat tulip on teal",
         "a 3d donut on purple checks", "a noto mushroom", "a flat fox on pink stripes", "a cactus")  # fmt: skip


class FlowTransformer(flow.Flow):
    """The transformer and both text encoders in training, their mean weights, and the training images.

    Args:
        folder: work folder of all stages.
        tokens: image tokens, 256 or 1,024.
        steps: total number of steps.
        rate: peak learning rate.
    """

    def __init__(self, folder: Path, tokens: int, steps: int, rate: float) -> None:
        super().__init__(new_modules(), steps, rate)
        self.folder, self.tokens = folder, tokens
        self.vae: AutoencoderKL = AutoencoderKL.from_pretrained(folder / "vae").eval().requires_grad_(False)
        self.tokenizers = (text.new_tokenizer(), text.new_tokenizer_2())
        self.scheduler = new_scheduler()
        self.cutouts = data.select(data.load(folder), data.pairs())

    def sample(self, random: torch.Generator) -> tuple[Tensor, list[str]]:
        """(B, tokens, 16) packed latents of emoji on random backgrounds."""
        images, captions = samples.captioned(self.cutouts, BATCH[self.tokens], side(self.tokens), random)
        return pack(encode(self.vae, images)).float(), captions  # under autocast the autoencoder's last layer gives bf16

    def noise_levels(self, n: int, random: torch.Generator) -> Tensor:
        """(n,) shares of noise in (0, 1): logit-normal, shifted like the scheduler's for this number of tokens."""
        return self.scheduler.time_shift(shift(self.tokens), 1.0, torch.sigmoid(torch.randn(n, generator=random)))

    def velocity(self, noisy: Tensor, level: Tensor, captions: list[str]) -> Tensor:
        """The transformer's prediction of noise minus image, (B, tokens, 16)."""
        ids, ids_2 = (text.tokenize(tokenizer, captions) for tokenizer in self.tokenizers)
        return self.model["transformer"](
            hidden_states=noisy,
            timestep=level,
            pooled_projections=self.model["text_encoder"](ids).pooler_output,
            encoder_hidden_states=self.model["text_encoder_2"](ids_2)[0],
            txt_ids=torch.zeros(text.LENGTH, 3),
            img_ids=positions(self.tokens),
            return_dict=False,
        )[0]

    def pipeline(self) -> FluxPipeline:
        """The model with its mean weights, as users load it."""
        return new_pipeline(self.ema.model, self.vae)

    def draw(self, path: Path) -> Path:
        """Draw the twelve prompts of ``SHEET``, each from its own noise, and write them as one image; returns ``path``."""
        generators = [torch.Generator().manual_seed(i) for i in range(len(SHEET))]
        size = {"height": side(self.tokens), "width": side(self.tokens)}
        pipe = self.pipeline()
        images = pipe(list(SHEET), generator=generators, output_type="pt", return_dict=False, **size, **SAMPLING)[0]
        save_sheet(images * 2 - 1, path, columns=6)
        return path

    def sheet(self, step: int) -> Path:
        """Where the sheet of a step belongs."""
        return self.folder / f"sheet-{self.tokens}-{step:06d}.png"


def train(folder: Path, tokens: int, steps: int | None = None, rate: float | None = None) -> None:
    """Train with images of ``tokens`` tokens, resuming from ``folder``; at 1,024 it begins with the weights of 256.

    Args:
        folder: work folder of all stages, with what the stages ``data`` and ``vae`` wrote.
        tokens: 256 or 1,024.
        steps: total number of steps; None takes ``STEPS``.
        rate: peak learning rate; None takes ``RATE``.
    """
    L.seed_everything(0)
    module = FlowTransformer(folder, tokens, steps or STEPS[tokens], rate or RATE[tokens])
    flow.train(module, folder, name(tokens), start=name(256) if tokens > 256 else None)


def name(tokens: int) -> str:
    """Name of the training with this number of tokens, for its checkpoints and its log."""
    return f"transformer-{tokens}"
