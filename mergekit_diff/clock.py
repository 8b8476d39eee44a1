"""Where in the denoising the current call of the denoiser is: image, step, call within the step, and progress."""

from itertools import pairwise
from typing import Any

import torch

TRAIN_TIMESTEPS = 1000


class Clock:
    """Counts images and steps from the timesteps that a denoiser is called with.

    With a scheduler, a new image begins when ``scheduler.timesteps`` is a new object. For a bare denoiser it begins when the
    timestep rises, or repeats more often than the most calls per step seen so far. Equal timesteps in a row are one step.

    Args:
        pipe: a diffusers pipeline, whose scheduler may be replaced at any time, or None.
    """

    def __init__(self, pipe: Any | None) -> None:  # noqa: ANN401
        self._pipe = pipe
        self._timesteps: Any = None
        self._calls_per_step: int | None = None
        self._course: tuple[float, float, int | None] = (0.0, 0.0, None)
        self.image = -1
        self.start_image()

    def start_image(self) -> None:
        """The next call belongs to a new image."""
        self.image += 1
        self.step, self.call, self._last = -1, 0, None

    def tick(self, timestep: Any) -> None:  # noqa: ANN401
        """Record that the denoiser is called with ``timestep``, a number or a tensor."""
        t = float(timestep.flatten()[0] if isinstance(timestep, torch.Tensor) else timestep)
        if self._last is not None and self._is_new_image(t):
            self.start_image()
        if t == self._last:
            self.call += 1
            return
        if self._last is None:
            self._timesteps = getattr(self._scheduler, "timesteps", None)
            self._course = self._ahead(t)
        else:
            self._calls_per_step = max(self._calls_per_step or 1, self.call + 1)
        self.step, self.call, self._last = self.step + 1, 0, t

    @property
    def timestep(self) -> float:
        """The timestep of the latest call."""
        return 0.0 if self._last is None else self._last

    @property
    def num_steps(self) -> int | None:
        """Number of steps of this image; None without a scheduler."""
        return self._course[2]

    @property
    def progress(self) -> float:
        """0 at the first timestep seen, 1 at the last of the schedule."""
        first, last, _ = self._course
        fraction = (first - self.timestep) / (first - last) if first != last else 0.0
        return min(1.0, max(0.0, fraction))

    @property
    def _scheduler(self) -> Any | None:  # noqa: ANN401
        return getattr(self._pipe, "scheduler", None)

    def _is_new_image(self, t: float) -> bool:
        if self._scheduler is not None:
            return self._scheduler.timesteps is not self._timesteps
        beyond = self._calls_per_step is not None and self.call + 1 >= self._calls_per_step
        return t > self.timestep or (t == self._last and beyond)

    def _ahead(self, t: float) -> tuple[float, float, int | None]:
        """First and last timestep and the number of steps of an image that begins at ``t``."""
        if self._timesteps is None:
            return float(TRAIN_TIMESTEPS), 0.0, None
        all_steps = [float(s) for s in self._timesteps]
        rest = all_steps[all_steps.index(t) :] if t in all_steps else all_steps
        return t, rest[-1], 1 + sum(a != b for a, b in pairwise(rest))
