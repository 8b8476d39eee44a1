"""Stage ``denoiser``: the U-Net and the text encoder, trained together on precomputed latents.

v-prediction (Salimans and Ho 2022, arXiv 2202.00512) on a cosine schedule (Nichol and Dhariwal 2021, arXiv 2102.09672),
captions dropped for classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598). The first steps train on images of half
the resolution, at about a quarter of the cost. Nothing is merged or pooled in training, so that no strategy is favoured. Every
batch depends on the number of its step alone.
"""

import shutil
from pathlib import Path
from typing import Any

import lightning as L
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel

from mergekit_diff.clock import TRAIN_TIMESTEPS

from . import data, text
from .autoencoder import encode
from .sheets import save_sheet
from .training import Ema, fit
from .vae import to_float

STEPS, RATE = 7600, 4e-4
NOISY = 0.55  # below 1, more noise at full resolution: high noise decides the layout, which is learnt last
SHEET = ("a noto apple", "a flat cat", "a 3d house", "a noto dog", "a flat rocket", "a 3d penguin", "a noto car", "a flat tulip",
         "a 3d donut", "a noto mushroom", "a flat fox", "a cactus")  # fmt: skip


def new_unet() -> UNet2DConditionModel:
    """A U-Net with self-attention on three levels: 32x32, 16x16 and 8x8 tokens."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 128, 256),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=text.WIDTH,
        attention_head_dim=(1, 2, 4),  # this argument is the number of heads, see diffusers issue 2011
        norm_num_groups=16,
        use_linear_projection=True,
    )


def new_scheduler() -> DDIMScheduler:
    """The noise schedule of training and sampling."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


class Denoiser(L.LightningModule):
    """The trained modules, their mean weights, and the training images."""

    def __init__(self, folder: Path, steps: int, small_steps: int, rate: float = RATE) -> None:
        super().__init__()
        self.folder, self.steps, self.small_steps, self.rate = folder, steps, small_steps, rate
        self.tokenizer = text.new_tokenizer()
        self.model = nn.ModuleDict({"unet": new_unet(), "text_encoder": text.new_text_encoder(self.tokenizer)})
        self.ema = Ema(self.model, 0.9995)
        self.vae: AutoencoderKL = AutoencoderKL.from_pretrained(folder / "vae").eval().requires_grad_(False)
        self.scheduler = new_scheduler()
        emoji, words, held_out = data.load(folder), data.concepts(trained=True), data.held_out()
        seen = [i for i, name in enumerate(emoji.names) if name[0] in words and name not in held_out]
        self.names = [(words[emoji.names[i][0]], emoji.names[i][1]) for i in seen]
        images = to_float(emoji.images[torch.tensor(seen)])
        self.latents = {32: encode(self.vae, images), 16: encode(self.vae, F.avg_pool2d(images, 2))}

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        """One batch, drawn with the number of the step as seed."""
        draw = torch.Generator().manual_seed(self.global_step)
        small = self.global_step < self.small_steps
        latents, size = (self.latents[16], 16) if small else (self.latents[32], 8)
        chosen = torch.randint(len(latents), (size,), generator=draw)
        dropped = torch.rand(2, size, generator=draw) < 0.1
        captions = [
            "" if no_caption else text.caption(word, None if no_style else style)
            for (word, style), no_caption, no_style in zip((self.names[i] for i in chosen), *dropped, strict=True)
        ]
        x = latents[chosen]
        noise = torch.randn(x.shape, generator=draw)
        time = (TRAIN_TIMESTEPS * torch.rand(size, generator=draw) ** (1.0 if small else NOISY)).long()
        noisy = self.scheduler.add_noise(x, noise, time)
        states = self.model["text_encoder"](text.tokenize(self.tokenizer, captions))[0]
        v = self.model["unet"](noisy, time, states).sample
        return F.mse_loss(v.float(), self.scheduler.get_velocity(x, noise, time))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Also update the mean weights, before a checkpoint is written."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update(self.model)

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """Draw the sheet every 500 steps."""
        if self.global_step % 500 == 0:
            side = data.SIZE // 2 if self.global_step <= self.small_steps else data.SIZE
            output = self.pipeline()(
                list(SHEET),
                num_inference_steps=15,
                guidance_scale=2.0,
                height=side,
                width=side,
                generator=[torch.Generator().manual_seed(i) for i in range(len(SHEET))],
                output_type="pt",
                return_dict=False,
            )
            images = output[0]
            assert isinstance(images, Tensor)
            save_sheet(images * 2 - 1, self.folder / f"sheet-{self.global_step:06d}.png", columns=6)

    def pipeline(self) -> StableDiffusionPipeline:
        """The model with its mean weights, as users load it."""
        pipe = StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.ema.model["text_encoder"],  # pyright: ignore[reportArgumentType]
            tokenizer=self.tokenizer,
            unet=self.ema.model["unet"],  # pyright: ignore[reportArgumentType]
            scheduler=self.scheduler,
            safety_checker=None,  # pyright: ignore[reportArgumentType]
            feature_extractor=None,  # pyright: ignore[reportArgumentType]
            requires_safety_checker=False,
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW; the rate warms up over 300 steps and decays linearly to a fiftieth."""
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.rate, betas=(0.9, 0.99), weight_decay=1e-3)

        def rate(step: int) -> float:
            return min(1.0, (step + 1) / 300) * max(0.02, 1 - step / self.steps)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def load_weights(model: nn.ModuleDict, source: Path) -> None:
    """Load the weights of a pipeline folder, such as the one that the package ships, into a U-Net and a text encoder."""
    model["unet"].load_state_dict(load_file(source / "unet" / "diffusion_pytorch_model.safetensors"))
    model["text_encoder"].load_state_dict(CLIPTextModel.from_pretrained(source / "text_encoder").state_dict())


def train(
    folder: Path, steps: int, small_steps: int, rate: float = RATE, source: Path | None = None, minutes: float | None = None
) -> None:
    """Train up to ``steps`` batches, the first ``small_steps`` of them at half the resolution, resuming from ``folder``.

    Args:
        folder: work folder of all stages.
        steps: in total.
        small_steps: at half the resolution.
        rate: the peak learning rate.
        source: a pipeline folder to start from, with its autoencoder if ``folder`` has none; the optimizer starts fresh.
        minutes: after which it ends with a checkpoint; None trains to the last step.
    """
    L.seed_everything(0)
    if source is not None and not (folder / "vae").exists():
        shutil.copytree(source / "vae", folder / "vae")
    module = Denoiser(folder, steps, small_steps, rate)
    if source is not None:
        load_weights(module.model, source)
        load_weights(module.ema.model, source)
    fit(module, steps, folder, "denoiser", minutes)
