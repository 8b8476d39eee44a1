"""What the rest of ``experiments`` asks of a task."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from .call import Call

OnStepEnd = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]
"""diffusers' ``callback_on_step_end``: pipeline, step, timestep and tensors to the tensors that the pipeline goes on with."""


@dataclass(frozen=True)
class Task(ABC):
    """A kind of output: how a pipeline is called for one, how it is written and read, and what judges it. Holds no state.

    Args:
        call: what the model's pipeline takes besides what the task passes to every pipeline.
    """

    call: Call = Call()

    name: ClassVar[str]
    """What metrics call it."""
    suffix: ClassVar[str]
    """Of the files that outputs are written to."""
    metrics: ClassVar[tuple[str, ...]]
    """The metrics of a study that names none."""
    primary: ClassVar[str]
    """The metric that decides in a study that names none."""

    @abstractmethod
    def generate(
        self,
        pipe: Any,  # noqa: ANN401
        prompt: str,
        seed: int,
        *,
        steps: int,
        guidance: float,
        size: tuple[int, int] | tuple[None, None],
        frames: int | None,
        on_step_end: OnStepEnd,
    ) -> Any:  # noqa: ANN401
        """Make one output.

        Args:
            pipe: the pipeline.
            prompt: of the output.
            seed: of its initial noise.
            steps: denoising steps.
            guidance: scale of classifier-free guidance.
            size: height and width in pixels; None leaves them to the model.
            frames: number of frames; None leaves it to the model.
            on_step_end: called after every step, if the pipeline supports it.
        """

    @abstractmethod
    def encode(self, output: Any) -> bytes:  # noqa: ANN401
        """The content of the output's file."""

    @abstractmethod
    def read(self, path: Path) -> Tensor:
        """The file of an output as metrics take it."""

    @abstractmethod
    def as_tensor(self, output: Any) -> Tensor:  # noqa: ANN401
        """An output as metrics take it, such as (3, H, W) uint8 for an image."""

    @abstractmethod
    def frames(self, output: Any) -> Sequence[Image.Image]:  # noqa: ANN401
        """The images that an output consists of: one, or the frames of a video."""

    @abstractmethod
    def of_frames(self, frames: Sequence[Image.Image]) -> Any:  # noqa: ANN401
        """The output that consists of these images."""

    @abstractmethod
    def side_by_side(self, outputs: Sequence[Any]) -> Any:  # noqa: ANN401
        """Several outputs in one, to look at."""

    def _called(self, pipe: Any, prompt: str, seed: int, guidance: float, on_step_end: OnStepEnd, **asked: int | None) -> Any:  # noqa: ANN401
        """What a pipeline returns, with 8-bit images.

        Args:
            pipe: the pipeline.
            prompt: of the output.
            seed: of its initial noise.
            guidance: scale of classifier-free guidance.
            on_step_end: called after every step, if the pipeline supports it.
            **asked: further arguments, which win over those of the model's record; None leaves one to it.
        """
        observable = "callback_on_step_end" in inspect.signature(pipe.__call__).parameters
        return pipe(
            prompt,
            generator=torch.Generator().manual_seed(seed),
            output_type="pil",
            **self.call.keywords(guidance) | {name: value for name, value in asked.items() if value is not None},
            **({"callback_on_step_end": on_step_end} if observable else {}),
        )
