"""One call of a pipeline: one prompt, one seed, one output, timed and watched at every denoising step."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ..models import set_scheduler, task_of
from ..study.cell import Cell
from ..study.seeds import noise_seed


class Removable(Protocol):
    """What can be taken away again."""

    def remove(self) -> None:
        """Take it away."""


Watch = Callable[[], Sequence[Removable]]
"""Attaches hooks that only watch, after those of the session, and returns them to be removed."""


@dataclass
class Steps:
    """Latents and seconds of every denoising step.

    Args:
        latents: after every step; empty if the pipeline has no callback.
        seconds: of the whole call.
        each: seconds of every step.
    """

    latents: list[Tensor] = field(default_factory=list)
    each: list[float] = field(default_factory=list)
    seconds: float = 0.0
    _since: float | None = None

    def on_denoiser(self, *_: object) -> None:
        """The first step begins with the first call of the denoiser."""
        self._since = time.perf_counter() if self._since is None else self._since

    def on_step_end(self, pipe: object, step: int, timestep: object, tensors: dict[str, Any]) -> dict[str, Any]:
        """Record a finished step; the pipeline goes on with the same tensors.

        Raises:
            RuntimeError: the latents are not finite; no later step mends that.
        """
        if tensors["latents"].is_cuda:
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.each.append(round(now - (self._since or now), 5))
        self.latents.append(tensors["latents"].detach().float().cpu())
        if not self.latents[-1].isfinite().all():
            raise RuntimeError(f"the latents are not finite numbers in {str(tensors['latents'].dtype).removeprefix('torch.')}")
        self._since = time.perf_counter()
        return tensors


def call_pipeline(
    pipe: Any,  # noqa: ANN401
    cell: Cell,
    prompt: str,
    seed: int,
    steps: Steps | None = None,
    watch: Watch | None = None,
) -> Any:  # noqa: ANN401
    """One output by a cell's settings, with whatever session is active.

    Args:
        pipe: the pipeline; it has the cell's scheduler already.
        cell: whose study has the settings.
        prompt: of the output.
        seed: number of the output among those of its prompt; the two decide its initial noise.
        steps: filled while the pipeline runs.
        watch: attaches further hooks for this call.
    """
    steps = Steps() if steps is None else steps
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    handles = [denoiser.register_forward_pre_hook(steps.on_denoiser), *(watch() if watch is not None else [])]
    start = time.perf_counter()
    try:
        return task_of(cell.study.model).generate(
            pipe,
            prompt,
            noise_seed(prompt, seed),
            steps=cell.study.steps,
            guidance=cell.study.guidance,
            size=cell.study.height_and_width(),
            frames=cell.study.frames,
            on_step_end=steps.on_step_end,
        )
    finally:
        steps.seconds = time.perf_counter() - start
        for handle in handles:
            handle.remove()


@contextmanager
def prepared(pipe: Any, cell: Cell) -> Iterator[None]:  # noqa: ANN401
    """Inside this context the pipeline has the cell's scheduler, its own where the study names none, and the cell's cache.

    Raises:
        ValueError: the denoiser can have no cache.
    """
    with ExitStack() as after:
        if cell.study.scheduler is not None:
            after.callback(setattr, pipe, "scheduler", pipe.scheduler)
            set_scheduler(pipe, cell.study.scheduler)
        if cell.study.cache is not None:
            after.callback(_with_cache(pipe, cell.study.cache).disable_cache)
        yield


def _with_cache(pipe: Any, threshold: float) -> Any:  # noqa: ANN401
    """The denoiser, whose cache is enabled now."""
    from diffusers import FirstBlockCacheConfig

    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    if not hasattr(denoiser, "enable_cache"):
        raise ValueError(f"cache: expected a transformer of diffusers that can have one, got {type(denoiser).__name__}")
    denoiser.enable_cache(FirstBlockCacheConfig(threshold=threshold))
    return denoiser
