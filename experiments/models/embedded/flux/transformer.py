"""Stage ``transformer``: the Flux-type transformer and both text encoders, trained together by rectified flow.

Rectified flow (Liu et al. 2022, arXiv 2209.03003) with logit-normal noise levels (Esser et al. 2024, arXiv 2403.03206),
captions dropped for classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598). First at 64x64, where an image is 256
tokens, then from those weights at 128x128, where it is 1,024 tokens and costs six times as much. Each batch, its backgrounds
and its noise are drawn from the step's number alone, so a training that was interrupted ends with the same weights to the
bit. The frozen autoencoder runs on each batch (a tenth of a step), since no image is drawn twice with the same background.
Nothing is merged or pooled in training.
"""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from diffusers import AutoencoderKL, FluxPipeline
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ..training import Ema, fit, last_checkpoint, save_sheet
from ..vae import encode
from . import data, samples, text
from .model import new_modules, new_pipeline, new_scheduler, pack, positions, shift, side

STEPS = {256: 25_000, 1024: 6_000}
BATCH = {256: 16, 1024: 8}
RATE = {256: 1e-3, 1024: 5e-4}
WARM_UP = 300  # steps over which the rate rises
DECAY = 0.2  # share of the steps, the last ones, over which it falls
KEEP_EVERY, SHEET_EVERY = 50, 500  # steps between checkpoints, and between sheets
SAMPLING = {"num_inference_steps": 16, "true_cfg_scale": 2.5, "negative_prompt": "", "max_sequence_length": text.LENGTH}
SHEET = ("a noto apple on blue", "a flat cat on a green gradient", "a 3d house on white", "a noto dog on yellow dots",
         "a flat rocket on black", "a 3d penguin on orange", "a noto car on gray clouds", "a flat tulip on teal",
         "a 3d donut on purple checks", "a noto mushroom", "a flat fox on pink stripes", "a cactus")  # fmt: skip


class FlowTransformer(L.LightningModule):
    """The transformer and both text encoders in training, their mean weights, and the training images.

    Args:
        folder: work folder of all stages.
        tokens: image tokens, 256 or 1,024.
        steps: total number of steps; the learning rate falls over the last fifth.
        rate: peak learning rate.
    """

    def __init__(self, folder: Path, tokens: int, steps: int, rate: float) -> None:
        super().__init__()
        self.folder, self.tokens, self.steps, self.rate = folder, tokens, steps, rate
        self.model = new_modules()
        self.ema = Ema(self.model, 0.9995)
        self.vae: AutoencoderKL = AutoencoderKL.from_pretrained(folder / "vae").eval().requires_grad_(False)
        self.tokenizers = (text.new_tokenizer(), text.new_tokenizer_2())
        self.scheduler = new_scheduler()
        self.cutouts = data.select(data.load(folder), data.pairs())

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        """One batch, drawn with the number of the step as seed."""
        random = torch.Generator().manual_seed(self.global_step)
        images, captions = samples.captioned(self.cutouts, BATCH[self.tokens], side(self.tokens), random)
        x = pack(encode(self.vae, images)).float()  # under autocast the autoencoder's last layer gives bf16
        noise = torch.randn(x.shape, generator=random)
        level = self.noise_levels(len(x), random)
        noisy = torch.lerp(x, noise, level[:, None, None])
        return F.mse_loss(self.velocity(noisy, level, captions).float(), noise - x)

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

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Also update the mean weights, before a checkpoint is written."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update(self.model)

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """Draw the sheet every ``SHEET_EVERY`` steps."""
        if self.global_step % SHEET_EVERY == 0:
            draw_sheet(self.pipeline(), self.tokens, self.folder / f"sheet-{self.tokens}-{self.global_step:06d}.png")

    def pipeline(self) -> FluxPipeline:
        """The model with its mean weights, as users load it."""
        return new_pipeline(self.ema.model, self.vae)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW; the rate warms up, stays constant, and falls linearly over the last fifth of the steps."""
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.rate, betas=(0.9, 0.99), weight_decay=1e-3)

        def rate(step: int) -> float:
            left = (self.steps - step) / (DECAY * self.steps)
            return min(1.0, (step + 1) / WARM_UP, max(0.02, left))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def draw_sheet(pipe: FluxPipeline, tokens: int, path: Path) -> Path:
    """Draw the twelve prompts of ``SHEET``, each from its own noise, and write them as one image; returns ``path``."""
    generators = [torch.Generator().manual_seed(i) for i in range(len(SHEET))]
    size = {"height": side(tokens), "width": side(tokens)}
    images = pipe(list(SHEET), generator=generators, output_type="pt", return_dict=False, **size, **SAMPLING)[0]
    save_sheet(images * 2 - 1, path, columns=6)
    return path


def train(folder: Path, tokens: int, steps: int | None = None, rate: float | None = None) -> None:
    """Train with images of ``tokens`` tokens, resuming from ``folder``; at 1,024 it begins with the weights of 256.

    Args:
        folder: work folder of all stages, with what the stages ``data`` and ``vae`` wrote.
        tokens: 256 or 1,024.
        steps: total number of steps; None takes ``STEPS``.
        rate: peak learning rate; None takes ``RATE``.
    """
    L.seed_everything(0)
    steps = steps or STEPS[tokens]
    module = FlowTransformer(folder, tokens, steps, rate or RATE[tokens])
    if tokens > 256:
        begin_with(module, last_checkpoint(folder, name(256)))
    fit(module, DataLoader(torch.arange(steps)), steps, folder, name(tokens), KEEP_EVERY)


def begin_with(module: FlowTransformer, checkpoint: Path) -> None:
    """Start from the mean weights of another checkpoint, if it exists, with a new optimizer and a new average."""
    if checkpoint.exists():
        module.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
        module.model.load_state_dict(module.ema.model.state_dict())
        module.ema = Ema(module.model, module.ema.decay)


def name(tokens: int) -> str:
    """Name of the training with this number of tokens, for its checkpoints and its log."""
    return f"transformer-{tokens}"
