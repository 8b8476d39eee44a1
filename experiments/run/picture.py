"""One call of a pipeline: one prompt, one seed, one picture."""

import inspect
import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from mergekit_diff import MergeReport, MergeSession, merging

from ..models import set_scheduler
from ..study.sweep import Cell
from .staleness import Staleness

Look = Callable[[], list[RemovableHandle]]


@dataclass(frozen=True)
class Made:
    """A picture and what was merged while it was made.

    Args:
        steps: what was seen at every denoising step.
        counts: tokens_before, tokens_after, asked, granted, notes, kept and, if asked for, stale; empty for a base.
        sites: rows of the merge report.
        maps: for a few sites the group of every token.
    """

    image: Image.Image
    steps: "Steps"
    counts: dict[str, Any] = field(default_factory=dict)
    sites: list[dict[str, Any]] = field(default_factory=list)
    maps: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Steps:
    """A clock and a camera in the denoising loop.

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
        """The first call of the denoiser begins the first step."""
        self._since = time.perf_counter() if self._since is None else self._since

    def on_step_end(self, pipe: object, step: int, timestep: object, tensors: dict[str, Any]) -> dict[str, Any]:
        """A step is done; the pipeline goes on with the same tensors."""
        if tensors["latents"].is_cuda:
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.each.append(round(now - (self._since or now), 5))
        self.latents.append(tensors["latents"].detach().float().cpu())
        self._since = time.perf_counter()
        return tensors


def make_picture(pipe: Any, cell: Cell, prompt: str, seed: int, look: Look | None = None) -> Made:  # noqa: ANN401
    """Call the pipeline, merging as the cell says.

    Args:
        pipe: the pipeline; its scheduler is the cell's already.
        cell: how.
        prompt: of the picture.
        seed: of its noise.
        look: attaches hooks of an onlooker when the session's are there, and returns them to be removed.

    Raises:
        RuntimeError: the cell's strategy asked for merging and no token was merged.
    """
    steps = Steps()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no token was merged")  # judged below, where the ratio asked is known
        with nullcontext() if cell.strategy is None else merging(pipe, cell.strategy, **(cell.merging or {})) as session:
            probe = Staleness(session) if session is not None and "staleness" in cell.study.probes else None
            image = call_pipeline(pipe, cell, prompt, seed, steps, look)
    if session is None:
        return Made(image, steps)
    report = session.report()
    counts = _counts(report, cell.name) | ({"stale": probe.by_step()} if probe is not None else {})
    return Made(image, steps, counts, _sites(report), _maps(session))


def call_pipeline(
    pipe: Any,  # noqa: ANN401
    cell: Cell,
    prompt: str,
    seed: int,
    steps: Steps | None = None,
    look: Look | None = None,
) -> Image.Image:
    """One picture by a cell's settings, whatever merges meanwhile; arguments as in :func:`make_picture`."""
    steps = Steps() if steps is None else steps
    height, width = cell.study.height_and_width()
    observed = "callback_on_step_end" in inspect.signature(pipe.__call__).parameters
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    handles = [denoiser.register_forward_pre_hook(steps.on_denoiser), *(look() if look is not None else [])]
    start = time.perf_counter()
    try:
        return pipe(
            prompt,
            num_inference_steps=cell.study.steps,
            guidance_scale=cell.study.guidance,
            height=height,
            width=width,
            generator=torch.Generator().manual_seed(seed),
            **({"callback_on_step_end": steps.on_step_end} if observed else {}),
        ).images[0]
    finally:
        steps.seconds = time.perf_counter() - start
        for handle in handles:
            handle.remove()


@contextmanager
def scheduled(pipe: Any, cell: Cell) -> Iterator[None]:  # noqa: ANN401
    """While this lasts, the pipeline has the scheduler of the cell."""
    own = pipe.scheduler
    if cell.study.scheduler is not None:
        set_scheduler(pipe, cell.study.scheduler)
    try:
        yield
    finally:
        pipe.scheduler = own


def as_tensor(image: Image.Image) -> Tensor:
    """(3, H, W) uint8."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _counts(report: MergeReport, name: str) -> dict[str, Any]:
    rows = [row for row in report.to_dicts() if row["calls"]]
    notes = sorted({row["note"] for row in report.to_dicts() if row["note"]})
    gated = any(row["gain_ms"] is not None for row in rows)  # a gate that closes every site has done what it was asked
    if not report.merged and not gated and (report.asked is None or report.asked > 0):
        raise RuntimeError(f"{name} merged nothing: {'; '.join(notes)}")
    return {
        "tokens_before": sum(row["tokens"] for row in rows),
        "tokens_after": round(sum(row["kept"] for row in rows), 1),
        "asked": report.asked,
        "granted": report.granted,
        "notes": notes,
        "kept": _kept_by_step(rows),
    }


def _kept_by_step(rows: list[dict[str, Any]]) -> list[float]:
    """Share of the tokens of all sites together that was kept at every step."""
    steps = sorted({step for row in rows for step in row["by_step"]})
    counts = [[row["by_step"][step] for row in rows if step in row["by_step"]] for step in steps]
    return [round(sum(kept for _, kept in count) / sum(tokens for tokens, _ in count), 4) for count in counts]


def _sites(report: MergeReport) -> list[dict[str, Any]]:
    return json.loads(json.dumps(report.to_dicts()))


def _maps(session: MergeSession) -> list[dict[str, Any]]:
    """The newest plan of the finest site of every stage, of the last row of the batch (the prompt's, not the empty one's)."""
    plans = session.plans()
    stages = {(row["site"], row["role"]): row["stage"] for row in session.report().to_dicts()}
    finest: dict[str | None, tuple[str, str]] = {}
    for key, (_, grid) in plans.items():
        best = finest.get(stages[key])
        if best is None or prod(grid) > prod(plans[best][1]):
            finest[stages[key]] = key
    return [_map(key, stage, *plans[key]) for stage, key in finest.items()]


def _map(key: tuple[str, str], stage: str | None, plan: Any, grid: tuple[int, ...]) -> dict[str, Any]:  # noqa: ANN401
    assign, rep = plan.assign[-1].tolist(), plan.rep[-1].tolist()
    return {"site": key[0], "role": key[1], "stage": stage, "grid": list(grid), "assign": assign, "rep": rep}
