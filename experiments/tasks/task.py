"""What the rest of ``experiments`` asks of a task."""

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from .call import Call
from .frames import Frames

OnStepEnd = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]
"""diffusers' ``callback_on_step_end``: pipeline, step, timestep and tensors to the tensors that the pipeline goes on with."""
NAN_TO_PIXELS = "invalid value encountered in cast"
"""What NumPy says when diffusers makes 8-bit pixels of a decoder's NaN; the latents may all be finite, as in float16."""
ONCE: Mapping[str, Any] = {"steps": 1, "guidance": 1.0, "frames": None, "size": None, "scheduler": None, "costs": False}
"""What a study cannot choose where the model is called once, without noise."""


@dataclass(frozen=True)
class Task(ABC):
    """A kind of output: how a model is called for one, how it is written and read, and what judges it. Holds no state.

    The file of an output is a PNG, animated if it is a video: what a reader looks at. What metrics take is read back from the
    file too; where pixels cannot hold it, it is in a chunk of text of the same file.

    Args:
        call: what the model's pipeline takes besides what the task passes to every pipeline.
    """

    call: Call = Call()

    name: ClassVar[str]
    """What metrics call it."""
    noun: ClassVar[str]
    """What readers call an output."""
    suffix: ClassVar[str]
    """Of the files that outputs are written to; no other task's files have it."""
    metrics: ClassVar[tuple[str, ...]]
    """The metrics of a study that names none."""
    primary: ClassVar[str]
    """The metric that decides in a study that names none."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Other values of a study that names none."""
    fixed: ClassVar[Mapping[str, Any]] = {}
    """What a study cannot choose, by its keys, such as guidance where a model has none."""
    about: ClassVar[str] = "A diffusion model processes an image as a grid of tokens."
    """What readers must know before they are told what merging tokens means."""

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
            pipe: the pipeline, or what stands for one.
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
    def read(self, path: Path) -> Any:  # noqa: ANN401
        """The file of an output as metrics take it."""

    @abstractmethod
    def as_tensor(self, output: Any) -> Any:  # noqa: ANN401
        """An output as metrics take it, the same as from its file: (3, H, W) uint8 for an image."""

    @abstractmethod
    def frames(self, output: Any) -> Frames:  # noqa: ANN401
        """The images that an output is looked at as: one, or the frames of a video."""

    def check_prompt(self, prompt: str) -> None:  # noqa: B027
        """Refuse a prompt that the task's models cannot take; any text is taken unless a task says otherwise.

        Raises:
            ValueError: says what a prompt is, in one line.
        """

    def _called(self, pipe: Any, prompt: str, seed: int, guidance: float, on_step_end: OnStepEnd, **asked: int | None) -> Any:  # noqa: ANN401
        """What a pipeline returns, with 8-bit images.

        Args:
            pipe: the pipeline.
            prompt: of the output.
            seed: of its initial noise.
            guidance: scale of classifier-free guidance.
            on_step_end: called after every step, if the pipeline supports it.
            **asked: further arguments, which win over those of the model's record; None leaves one to it.

        Raises:
            RuntimeError: the decoder returned NaN, which would be black pixels.
        """
        observable = "callback_on_step_end" in inspect.signature(pipe.__call__).parameters
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=NAN_TO_PIXELS, category=RuntimeWarning)
            try:
                return pipe(
                    prompt,
                    generator=torch.Generator().manual_seed(seed),
                    output_type="pil",
                    **self.call.keywords(guidance) | {name: value for name, value in asked.items() if value is not None},
                    **({"callback_on_step_end": on_step_end} if observable else {}),
                )
            except RuntimeWarning:
                raise RuntimeError(f"the decoded {self.noun} has pixels that are not numbers") from None
