"""Training of a transformer and its text encoders by rectified flow, for images and for videos.

Rectified flow (Liu et al. 2022, arXiv 2209.03003) with logit-normal noise levels (Esser et al. 2024, arXiv 2403.03206), captions
dropped for classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598). Each batch and its noise are drawn from the step's
number alone, so a training that was interrupted ends with the same weights to the bit. Nothing is merged or pooled.
"""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from diffusers import DiffusionPipeline
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from ...tasks import Call
from .logs import LevelLog
from .optimizers import muon
from .phase import Phase
from .sheets import save_sheet
from .training import Ema, fit, last_checkpoint, precision, restore

WARM_UP = 300  # steps over which the rate rises
DECAY = 0.2  # share of the steps, the last ones, over which it falls
SHEET_EVERY = 500  # steps


class Flow(L.LightningModule):
    """Modules in training, with their mean weights.

    Args:
        folder: work folder of all stages, with what the stages ``data`` and ``vae`` wrote.
        size: of the outputs: a key of ``phases``.
        model: the modules that are trained together.
        steps: total number of steps; the learning rate falls over the last fifth. None takes the phase's.
        rate: peak learning rate; None takes the phase's.
    """

    phases: ClassVar[Mapping[int, Phase]]
    """By the size of the outputs, in the order of training."""
    slower: ClassVar[Mapping[str, float]] = {}
    """Parts of the model that AdamW alone trains, each at this share of the rate."""
    call: ClassVar[Call]
    """How the exported pipeline is called."""
    guidance: ClassVar[float] = 2.5
    sampling_steps: ClassVar[int] = 16
    prompts: ClassVar[tuple[str, ...]]
    """Of the sheet."""
    columns: ClassVar[int]
    """Of the sheet."""

    def __init__(self, folder: Path, size: int, model: nn.ModuleDict, steps: int | None, rate: float | None) -> None:
        super().__init__()
        self.folder, self.size, self.phase, self.model = folder, size, self.phases[size], model
        self.steps, self.rate = steps or self.phase.steps, rate or self.phase.rate
        self.ema = Ema(self.model, 0.9995)

    @abstractmethod
    def sample(self, random: torch.Generator) -> tuple[Tensor, list[str]]:
        """A batch of clean latents (B, ...) of mean 0 and standard deviation 1, and their captions."""

    @abstractmethod
    def velocity(self, noisy: Tensor, level: Tensor, captions: list[str]) -> Tensor:
        """The prediction of noise minus latents, of the latents' shape, at (B,) noise levels."""

    @property
    @abstractmethod
    def shift(self) -> float:
        """How much the odds of noise are raised, the same as in sampling."""

    @abstractmethod
    def pipeline(self) -> DiffusionPipeline:
        """The model with its mean weights, as users load it."""

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """Of a call of the pipeline for outputs of this size."""

    def training_step(self, batch: Tensor, index: int) -> dict[str, Tensor]:
        """One batch, drawn with the number of the step as seed."""
        random = torch.Generator().manual_seed(self.global_step)
        x, captions = self.sample(random)
        noise = torch.randn(x.shape, generator=random)
        levels = noise_levels(len(x), self.shift, random)
        noisy = torch.lerp(x, noise, levels.view(-1, *[1] * (x.dim() - 1)))
        errors = self.velocity(noisy, levels, captions).float() - (noise - x)
        losses = errors.square().flatten(1).mean(1)
        return {"loss": losses.mean(), "losses": losses.detach(), "levels": levels}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Also update the mean weights, before a checkpoint is written."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update(self.model)

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """Draw the sheet every ``SHEET_EVERY`` steps."""
        if self.global_step % SHEET_EVERY == 0:
            self.draw(self.global_step)

    def draw(self, step: int) -> Path:
        """Draw every prompt from its own noise with the mean weights, in the precision of training; returns the sheet's path."""
        generators = [torch.Generator().manual_seed(i) for i in range(len(self.prompts))]
        call = self.call.keywords(self.guidance) | {"num_inference_steps": self.sampling_steps} | self.arguments()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision() == "bf16-mixed"):
            pipe: Any = self.pipeline()
            outputs = pipe(list(self.prompts), generator=generators, output_type="pt", return_dict=False, **call)[0]
        path = self.folder / f"{self.phase.name}-{step:06d}.png"
        save_sheet((outputs.transpose(1, 2) if outputs.dim() == 5 else outputs) * 2 - 1, path, self.columns)
        return path

    def configure_callbacks(self) -> list[Callback]:
        """Log the loss by noise level too."""
        return [LevelLog(self.folder / "log" / f"{self.phase.name}-levels.csv")]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Muon and AdamW; the rate warms up, stays constant, and falls linearly over the last fifth of the steps."""
        optimizer = muon(self.model, self.rate, slower=self.slower)

        def rate(step: int) -> float:
            left = (self.steps - step) / (DECAY * self.steps)
            return min(1.0, (step + 1) / WARM_UP, max(0.02, left))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def noise_levels(n: int, shift: float, random: torch.Generator) -> Tensor:
    """(n,) shares of noise in [0, 1): logit-normal, with their odds raised by ``shift``, one from each n-th of the distribution.

    Logit-normal and shift: Esser et al. (2024), arXiv 2403.03206, sections 3.1 and 5.3.2. One from each part, so that the loss of
    a small batch depends less on its levels: the low-discrepancy sampler of Kingma et al. (2021), arXiv 2107.00630, appendix I.1.
    """
    shares = (torch.rand((), generator=random) + torch.arange(n) / n) % 1
    level = torch.sigmoid(torch.special.ndtri(shares))
    return shift * level / (1 + (shift - 1) * level)


def train(module: Flow, minutes: float | None = None, compiled: bool = False, source: Path | None = None) -> bool:
    """Train up to the module's steps, resuming from its folder, or starting from the phase before it or from a pipeline folder.

    Args:
        module: what is trained.
        minutes: after which it ends with a checkpoint; None trains to the last step.
        compiled: whether the transformer is compiled. On one core a step of ``emoji-flux`` at 256 tokens took 1.5 s instead of
            1.9 s, after a minute of compiling; a C++ compiler is needed.
        source: a pipeline folder whose weights it starts from; the optimizer starts fresh.

    Returns:
        Whether all steps were taken.

    Raises:
        FileNotFoundError: the phase before was never trained in this folder.
    """
    phase, folder = module.phase, module.folder
    if not last_checkpoint(folder, phase.name).exists():
        if source is not None:
            begin_with_pipeline(module, source)
        elif phase.after is not None:
            begin_with(module, phase.after)
    if compiled:
        module.model["transformer"].compile(dynamic=False)
    return fit(module, module.steps, folder, phase.name, minutes)


def begin_with_pipeline(module: Flow, source: Path) -> None:
    """Start from the weights of a pipeline folder, with a new optimizer and a new average."""
    pipe = DiffusionPipeline.from_pretrained(source, torch_dtype=torch.float32, local_files_only=True)
    for name, part in module.model.items():
        part.load_state_dict(getattr(pipe, name).state_dict())
    module.ema = Ema(module.model, module.ema.decay)
    print(f"{module.phase.name} begins with the weights in {source}")


def begin_with(module: Flow, name: str) -> None:
    """Start from the mean weights of another phase, with a new optimizer and a new average."""
    before, step = restore(lambda steps: module, module.folder, name)
    print(f"{module.phase.name} begins with the mean weights of {name} after {step:,} steps")
    before.model.load_state_dict(before.ema.model.state_dict())
    module.ema = Ema(module.model, module.ema.decay)
    module.train()
