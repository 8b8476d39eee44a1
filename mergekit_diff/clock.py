"""Where in the denoising the current call of the denoiser is: image, step, call within the step, and progress."""

from typing import Any

import torch

from .sites import TIMES
from .timesteps import Timesteps

TRAIN_TIMESTEPS = 1000


class Clock:
    """Counts images and steps from the timesteps that a denoiser is called with.

    With a scheduler, a new image begins when ``scheduler.timesteps`` is a new object, and a step is a place among them: where the
    scheduler says it is, else the one nearest to the timestep. For a bare denoiser an image begins when the noise rises, or when
    a timestep repeats, with as many rows, more often than the most calls per step seen so far. Equal timesteps in a row are one
    step.

    Args:
        pipe: a diffusers pipeline, whose scheduler may be replaced at any time, or None.
        time: what the denoiser is called with, a key of ``mergekit_diff.sites.TIMES``.
    """

    def __init__(self, pipe: Any | None, time: str = "t") -> None:  # noqa: ANN401
        self._pipe, self._noise_at, self._name = pipe, TIMES[time], "scheduler"
        self._as_scheduled = TIMES["t" if time == "1000-t" else time]
        self._schedule: Timesteps | None = None
        self._calls_per_step: int | None = None
        self._rows, self._most_rows = 0, 0  # of this call, and the most of its step
        self.image = -1
        self.start_image()

    def start_image(self) -> None:
        """The next call belongs to a new image."""
        self.image += 1
        self.step, self.call, self._last, self._image_rows = -1, 0, None, 0

    def tick(self, timestep: Any, rows: int = 1, scheduler: str = "scheduler") -> None:  # noqa: ANN401
        """Record that the denoiser is called.

        Args:
            timestep: a number or a tensor; of several the one with the most noise counts, since tokens may be clean.
            rows: of the batch.
            scheduler: the name of this denoiser's in the pipeline; where another one begins, so does an image.
        """
        self._name = scheduler
        t = self._noisiest(timestep)
        if self._last is not None and self._is_new_image(t, rows):
            self.start_image()
        self._rows, self._image_rows = rows, max(self._image_rows, rows)
        if self._last is None:
            self._schedule = Timesteps.of(self._scheduler, self._as_scheduled(t))
        elif not self._has_moved_on(t):
            self.call += 1
            self._most_rows = max(self._most_rows, rows)
            return
        else:
            self._calls_per_step = max(self._calls_per_step or 1, self.call + 1)
        self.step = self.step + 1 if self._schedule is None else self._schedule.step
        self.call, self._last, self._most_rows = 0, t, rows

    @property
    def partial(self) -> bool:
        """Whether an earlier call of this image had more rows, as where guidance has ended or in skip-layer guidance."""
        return self._rows < self._image_rows

    @property
    def timestep(self) -> float:
        """The timestep of the latest call, as the denoiser got it."""
        return 0.0 if self._last is None else self._last

    @property
    def num_steps(self) -> int | None:
        """Number of steps of this image; None without a scheduler."""
        return None if self._schedule is None else self._schedule.num_steps

    @property
    def progress(self) -> float:
        """0 at the first timestep seen, 1 at the last of the schedule; without one, at no noise."""
        if self._schedule is not None:
            return self._schedule.progress
        fraction = 0.0 if self._last is None else 1 - self._noise_at(self._last) / TRAIN_TIMESTEPS
        return min(1.0, max(0.0, fraction))

    @property
    def _scheduler(self) -> Any | None:  # noqa: ANN401
        return getattr(self._pipe, self._name, None)

    def _noisiest(self, timestep: Any) -> float:  # noqa: ANN401
        if not isinstance(timestep, torch.Tensor):
            return float(timestep)
        if timestep.numel() == 1:
            return float(timestep)
        values = timestep.flatten()
        return float(values.max() if self._noise_at(1.0) > self._noise_at(0.0) else values.min())

    def _is_new_image(self, t: float, rows: int) -> bool:
        timesteps = getattr(self._scheduler, "timesteps", None)
        if timesteps is not None:
            return self._schedule is None or timesteps is not self._schedule.timesteps
        beyond = self._calls_per_step is not None and self.call + 1 >= self._calls_per_step
        again = t == self._last and beyond and rows >= self._most_rows
        return self._noise_at(t) > self._noise_at(self.timestep) or again

    def _has_moved_on(self, t: float) -> bool:
        """Whether a call belongs to another step than the last one."""
        if self._schedule is None:
            return t != self._last
        return self._schedule.move(self._as_scheduled(t), t != self._last)
