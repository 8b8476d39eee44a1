"""The timesteps of one image as a scheduler lists them, and the place that a denoiser has reached."""

from itertools import pairwise
from typing import Any

import torch

NEAR = 0.004
"""How far a timestep may be from the scheduler's, as a share of their range: a model in bfloat16 gets one that is rounded by half
of that, so that neighbours may look the same."""


class Timesteps:
    """The timesteps of one image, and the place among them.

    A denoiser whose timesteps are scaled in an unknown way moves to the next one whenever its own change.

    Args:
        scheduler: has them, and perhaps the index at which it is.
        noise: the first one that the denoiser is called with, on the scheduler's scale.
    """

    def __init__(self, scheduler: Any, noise: float) -> None:  # noqa: ANN401
        self.timesteps, self._scheduler = scheduler.timesteps, scheduler
        self._noise: list[float] = torch.as_tensor(scheduler.timesteps).tolist()
        self._near = NEAR * (max(self._noise) - min(self._noise))
        first = min(range(len(self._noise)), key=lambda i: abs(self._noise[i] - noise))
        unscaled = noise <= 1 < self._noise[0]
        self._is_known = self._is_near(first, noise) and not unscaled
        self._first = self._place = first if self._is_known else 0

    @classmethod
    def of(cls, scheduler: Any | None, noise: float) -> "Timesteps | None":  # noqa: ANN401
        """Those of an image that begins now; None without a scheduler, or if it has none yet."""
        timesteps = getattr(scheduler, "timesteps", None)
        return None if timesteps is None or len(timesteps) == 0 else cls(scheduler, noise)

    @property
    def num_steps(self) -> int:
        """Number of different timesteps in a row, from the first on."""
        return self._steps(len(self._noise) - 1) + 1

    @property
    def step(self) -> int:
        """Number of steps before this one."""
        return self._steps(self._place)

    @property
    def progress(self) -> float:
        """0 at the first timestep, 1 at the last."""
        first, last = self._noise[self._first], self._noise[-1]
        return 0.0 if first == last else (first - self._noise[self._place]) / (first - last)

    def move(self, noise: float, changed: bool) -> bool:
        """Find the place of the next call.

        Args:
            noise: its timestep, on the scheduler's scale.
            changed: whether it differs from the last one.

        Returns:
            Whether it belongs to another step.
        """
        before, rest = self.step, range(self._place + 1, len(self._noise))
        index = getattr(self._scheduler, "step_index", None)
        if isinstance(index, int) and index in rest and (self._is_near(index, noise) or not self._is_known):
            self._place = index
        elif changed and rest:
            nearest = min(rest, key=lambda i: abs(self._noise[i] - noise))
            self._place = nearest if self._is_known and self._is_near(nearest, noise) else self._after(rest)
        return self.step != before

    def _is_near(self, place: int, noise: float) -> bool:
        return abs(self._noise[place] - noise) <= self._near

    def _after(self, rest: range) -> int:
        """The next place with another timestep."""
        return next((i for i in rest if self._noise[i] != self._noise[self._place]), self._place)

    def _steps(self, place: int) -> int:
        return sum(a != b for a, b in pairwise(self._noise[self._first : place + 1]))
