"""Labelled images of CIFAR-10, equally many of every class.

Krizhevsky (2009), Learning multiple layers of features from tiny images.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..models.fetched import CIFAR10, checked
from ..reading import read_json

CLASSES, SIDE = 10, 32


@dataclass(frozen=True)
class Labelled:
    """Images and what they show.

    Args:
        images: (n, h, w, 3) uint8.
        labels: (n) int64 in [0, 10).
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"expected a label for each of {len(self.images)} images, got {len(self.labels)}")

    def balanced(self, n: int, seed: int = 0) -> "Labelled":
        """``n`` of them, equally many of every class, drawn by a seed.

        Raises:
            ValueError: ``n`` is no multiple of 10, or some class has too few.
        """
        most = CLASSES * int(torch.bincount(self.labels, minlength=CLASSES).min())
        if n % CLASSES or not 0 < n <= most:
            raise ValueError(f"expected a number of images that is a multiple of {CLASSES}, at most {most}; got {n}")
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(seed))
        drawn = torch.cat([order[self.labels[order] == i][: n // CLASSES] for i in range(CLASSES)])
        return Labelled(self.images[drawn], self.labels[drawn])


def cifar10(train: int = 1000, test: int = 400, seed: int = 0) -> tuple[Labelled, Labelled]:
    """Images to fit a probe to, from the first fifth of the training images, and others to test it on, from the test images.

    Raises:
        ValueError: the data were not fetched or were changed, or a number is out of range; the message is one line.
    """
    return (
        _read("data_batch_1.png", "train_lables.json").balanced(train, seed),
        _read("test_batch.png", "test_lables.json").balanced(test, seed),
    )


def _read(images: str, labels: str) -> Labelled:
    """All images of a file, with the labels of another, which go on with those of files that were not fetched."""
    pixels, numbers = _pixels(checked(CIFAR10.pin(images))), read_json(checked(CIFAR10.pin(labels)))
    return Labelled(pixels, torch.tensor(numbers[: len(pixels)]))


def _pixels(path: Path) -> Tensor:
    """(n, 32, 32, 3) uint8 from a PNG file, every row of which is an image, pixel after pixel."""
    with Image.open(path, formats=("PNG",)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).reshape(-1, SIDE, SIDE, 3)
