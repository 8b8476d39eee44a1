"""What both trained stages share: an exponential mean of weights, a resumable Lightning run, a sheet of pictures."""

import copy
from pathlib import Path
from typing import Generic, TypeVar

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

Model = TypeVar("Model", bound=nn.Module)


class Ema(nn.Module, Generic[Model]):
    """An exponential moving average of a model's weights, with a warm-up of the decay."""

    def __init__(self, model: Model, decay: float) -> None:
        super().__init__()
        self.model: Model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move every mean weight towards the model's by ``1 - decay``."""
        self.updates += 1
        decay = min(self.decay, (1 + int(self.updates)) / (10 + int(self.updates)))
        for mean, weight in zip(self.model.parameters(), model.parameters(), strict=True):
            mean.lerp_(weight, 1 - decay)


def fit(module: L.LightningModule, loader: DataLoader, steps: int, folder: Path, name: str) -> None:
    """Train under bf16 autocast up to ``steps``; resumes from ``folder/checkpoints/name`` and logs to ``folder/log/name``."""
    keep = ModelCheckpoint(folder / "checkpoints" / name, save_last=True, save_top_k=0, every_n_train_steps=200)
    trainer = L.Trainer(
        accelerator="cpu",
        precision="bf16-mixed",
        max_steps=steps,
        callbacks=[keep],
        logger=CSVLogger(folder / "log", name=name, flush_logs_every_n_steps=100),
        log_every_n_steps=50,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
    )
    last = folder / "checkpoints" / name / "last.ckpt"
    trainer.fit(module, loader, ckpt_path=last if last.exists() else None, weights_only=True)


def save_sheet(pictures: Tensor, path: Path, columns: int) -> None:
    """Write (n, 3, H, W) pictures in [-1, 1] as one grid."""
    n, _, h, w = pictures.shape
    rows = -(-n // columns)
    sheet = torch.full((3, rows * h, columns * w), 255, dtype=torch.uint8)
    for k, picture in enumerate(((pictures.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)):
        y, x = k // columns * h, k % columns * w
        sheet[:, y : y + h, x : x + w] = picture
    Image.fromarray(sheet.permute(1, 2, 0).contiguous().numpy()).save(path)
