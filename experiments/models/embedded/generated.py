"""Generated images on the disk: made in batches, kept as they are made, read back as the 8-bit images that users would see."""

import hashlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...files import write_atomically
from ...metrics import feature
from ...tasks import PICTURE
from .. import task_of

Sample = tuple[str, int]
"""Prompt and seed of an image."""
Generate = Callable[[list[str], list[torch.Generator]], Sequence[Image.Image]]
"""Makes an image of every prompt, each from its own generator."""


@dataclass(frozen=True)
class Generated:
    """The images of one model.

    Args:
        folder: of the files.
        generate: makes them.
        settings: what else decides an image, such as the number of steps; part of the names of files.
        batch: how many are made in one call.
    """

    folder: Path
    generate: Generate
    settings: tuple[float, ...]
    batch: int = 8

    @classmethod
    def by(
        cls,
        pipe: Any,  # noqa: ANN401
        weights: str,
        folder: Path,
        steps: int,
        guidance: float,
        *,
        images: Callable[[Any], Sequence[Image.Image]] = lambda output: output.images,
        batch: int = 8,
        **arguments: Any,  # noqa: ANN401
    ) -> "Generated":
        """The images of a pipeline, called as the model's own record says.

        Args:
            pipe: the pipeline.
            weights: name or folder of the model, which has the record.
            folder: of the files.
            steps: denoising steps.
            guidance: scale of classifier-free guidance.
            images: takes the images from the pipeline's output.
            batch: how many are made in one call.
            arguments: further arguments of the call.
        """
        call = {"num_inference_steps": steps} | task_of(weights).call.keywords(guidance) | arguments
        return cls(folder, lambda prompts, random: images(pipe(prompts, generator=random, **call)), (steps, guidance), batch)

    def draw(self, samples: Sequence[Sample]) -> None:
        """Make the missing images in batches and in random order, so that several processes can share the work."""
        while missing := [sample for sample in samples if not self.file(sample).exists()]:
            chosen = random.sample(missing, min(self.batch, len(missing)))
            generators = [torch.Generator().manual_seed(seed) for _, seed in chosen]
            images = self.generate([prompt for prompt, _ in chosen], generators)
            for sample, image in zip(chosen, images, strict=True):
                write_atomically(self.file(sample), PICTURE.encode(image))
            print(f"\r{len(samples) - len(missing) + len(chosen)} of {len(samples)} images", end="", flush=True)
        print()

    def file(self, sample: Sample) -> Path:
        """The file of an image."""
        return self.folder / f"{hashlib.sha256(repr((sample, *self.settings)).encode()).hexdigest()[:16]}.png"

    def images(self, samples: Sequence[Sample]) -> Tensor:
        """(n, 3, H, W) uint8 images; the missing ones are made first."""
        self.draw(samples)
        return torch.stack([PICTURE.read(self.file(sample)) for sample in samples])

    def features(self, samples: Sequence[Sample]) -> Tensor:
        """(n, 1280) features of images; the missing ones are made first."""
        return feature.features(self.images(samples))

    def seconds(self, prompt: str) -> float:
        """Median time of one image."""
        return median(timed(lambda: self.generate([prompt], [torch.Generator().manual_seed(0)])))


def timed(call: Callable[[], object], times: int = 3) -> Iterator[float]:
    """Seconds of each of a few calls."""
    for _ in range(times):
        start = time.perf_counter()
        call()
        yield time.perf_counter() - start
