"""One call of a pipeline: one prompt, one seed, one picture."""

import json
import time
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mergekit_diff import MergeReport, MergeSession, merging

from .sweep import Cell


@dataclass(frozen=True)
class Made:
    """A picture and what was merged while it was made.

    Args:
        seconds: the pipeline call's.
        counts: tokens_before, tokens_after, asked, granted, notes; empty for a base.
        sites: rows of the merge report.
        maps: for a few sites the group of every token.
    """

    image: Image.Image
    seconds: float
    counts: dict[str, Any] = field(default_factory=dict)
    sites: list[dict[str, Any]] = field(default_factory=list)
    maps: list[dict[str, Any]] = field(default_factory=list)


def make_picture(pipe: Any, cell: Cell, prompt: str, seed: int) -> Made:  # noqa: ANN401
    """Call the pipeline, merging as the cell says.

    Raises:
        RuntimeError: the cell's strategy asked for merging and no token was merged.
    """
    height, width = cell.study.height_and_width()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no token was merged")  # judged below, where the ratio asked is known
        with nullcontext() if cell.strategy is None else merging(pipe, cell.strategy, **(cell.merging or {})) as session:
            start = time.perf_counter()
            image = pipe(
                prompt,
                num_inference_steps=cell.study.steps,
                guidance_scale=cell.study.guidance,
                height=height,
                width=width,
                generator=torch.Generator().manual_seed(seed),
            ).images[0]
            seconds = time.perf_counter() - start
    if session is None:
        return Made(image, seconds)
    report = session.report()
    return Made(image, seconds, _counts(report, cell.name), _sites(report), _maps(session))


def as_tensor(image: Image.Image) -> Tensor:
    """(3, H, W) uint8."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _counts(report: MergeReport, name: str) -> dict[str, Any]:
    rows = [row for row in report.to_dicts() if row["calls"]]
    notes = sorted({row["note"] for row in report.to_dicts() if row["note"]})
    if not report.merged and (report.asked is None or report.asked > 0):
        raise RuntimeError(f"{name} merged nothing: {'; '.join(notes)}")
    return {
        "tokens_before": sum(row["tokens"] for row in rows),
        "tokens_after": round(sum(row["kept"] for row in rows), 1),
        "asked": report.asked,
        "granted": report.granted,
        "notes": notes,
    }


def _sites(report: MergeReport) -> list[dict[str, Any]]:
    return json.loads(json.dumps([{key: row[key] for key in row if key != "by_step"} for row in report.to_dicts()]))


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
