"""Images in [-1, 1] as bytes, and sheets of many images, or of videos as rows of their frames, in one file to look at."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor


def to_bytes(images: Tensor) -> Tensor:
    """Values in [-1, 1] as uint8."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def save_sheet(images: Tensor, path: Path, columns: int) -> None:
    """Write (n, 3, H, W) images in [-1, 1] as one grid, or (n, 3, F, H, W) videos, each as a row of its F frames."""
    if images.dim() == 5:
        columns *= images.shape[2]
        images = images.transpose(1, 2).flatten(0, 1)
    n, _, h, w = images.shape
    rows = -(-n // columns)
    sheet = torch.full((3, rows * h, columns * w), 255, dtype=torch.uint8)
    for k, image in enumerate(to_bytes(images)):
        y, x = k // columns * h, k % columns * w
        sheet[:, y : y + h, x : x + w] = image
    Image.fromarray(sheet.permute(1, 2, 0).contiguous().numpy()).save(path)
