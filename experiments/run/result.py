"""Makes one output of a cell, and records what was merged meanwhile."""

import json
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch

from mergekit_diff import MergeReport, MergeSession, merging

from ..models import task_of
from ..study.cell import Cell
from ..study.seeds import for_image
from .call import Steps, Watch, call_pipeline
from .computed import Computed
from .layers import LayerErrors
from .staleness import Staleness


@dataclass(frozen=True)
class Result:
    """An output and what was merged while it was made.

    Args:
        output: of the task, such as an image.
        steps: latents and seconds of every denoising step.
        counts: the fields of a row from tokens_before to plans and, where they are known, stale, layers and computed; empty for
            a base.
        sites: rows of the merge report.
        maps: for a few sites the group of every token, of all frames.
    """

    output: Any
    steps: Steps
    counts: dict[str, Any] = field(default_factory=dict)
    sites: list[dict[str, Any]] = field(default_factory=list)
    maps: list[dict[str, Any]] = field(default_factory=list)


def make_result(pipe: Any, cell: Cell, prompt: str, seed: int, watch: Watch | None = None) -> Result:  # noqa: ANN401
    """Call the pipeline, merging as the cell says; arguments as in :func:`.call_pipeline`.

    Raises:
        RuntimeError: the cell's strategy asked for merging and no token was merged.
    """
    steps, options = Steps(), None if cell.merging is None else for_image(cell.merging, prompt, seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no token was merged")  # checked below, where the requested ratio is known
        with nullcontext() if options is None else merging(pipe, cell.strategy, **options) as session:
            probe = Staleness(session) if session is not None and "staleness" in cell.study.probes else None
            layers = LayerErrors(session) if session is not None and "layer" in cell.study.metrics else None
            computed = None if cell.study.cache is None else Computed(getattr(pipe, "unet", None) or pipe.transformer)
            output = call_pipeline(pipe, cell, prompt, seed, steps, _both(watch, computed))
    if session is None:
        return Result(output, steps)
    report = session.report()
    counts = _counts(report, cell.name) | ({"stale": probe.by_step()} if probe is not None else {})
    counts |= {"layers": layers.by_site(cell.study.steps)} if layers is not None else {}
    counts |= {"computed": computed.share} if computed is not None else {}
    frames = len(task_of(cell.study.model).frames(output))
    return Result(output, steps, counts, _sites(report), _maps(session, frames))


def _both(watch: Watch | None, computed: Computed | None) -> Watch | None:
    if computed is None:
        return watch
    return lambda: [*(watch() if watch is not None else []), *computed.attach()]


def _counts(report: MergeReport, name: str) -> dict[str, Any]:
    rows = [row for row in report.to_dicts() if row["calls"]]
    notes = sorted({row["note"] for row in report.to_dicts() if row["note"]})
    gated = any(row["gain_ms"] is not None for row in rows)  # a gate that closes every site did its job
    if not report.merged and not gated and (report.asked is None or report.asked > 0):
        raise RuntimeError(f"{name} merged nothing: {'; '.join(notes)}")
    return {
        "tokens_before": sum(row["tokens"] for row in rows),
        "tokens_after": round(sum(row["kept"] for row in rows), 1),
        "asked": report.asked,
        "granted": report.granted,
        "notes": notes,
        "kept": _kept_by_step(rows),
        "plans": _plans(rows),
    }


def _kept_by_step(rows: list[dict[str, Any]]) -> list[float]:
    """For every step the share of tokens kept, over all sites together."""
    steps = sorted({step for row in rows for step in row["by_step"]})
    counts = [[row["by_step"][step] for row in rows if step in row["by_step"]] for step in steps]
    return [round(sum(kept for _, kept in count) / sum(tokens for tokens, _ in count), 4) for count in counts]


def _plans(rows: list[dict[str, Any]]) -> float | None:
    """Steps in which a site made a plan, as if it ran in all steps of the image: mean over the sites that made any."""
    shares = [row["planned"] / len(row["by_step"]) for row in rows if row["planned"]]
    steps = {step for row in rows for step in row["by_step"]}
    return round(len(steps) * sum(shares) / len(shares), 3) if shares else None


def _sites(report: MergeReport) -> list[dict[str, Any]]:
    return json.loads(json.dumps(report.to_dicts()))


def _maps(session: MergeSession, frames: int) -> list[dict[str, Any]]:
    """The newest plan of the finest site of every stage, for the last row of the batch: the prompt's, not the empty prompt's.

    Args:
        session: that has made the output.
        frames: of the output.
    """
    plans = session.plans()
    stages = {(row["site"], row["role"]): row["stage"] for row in session.report().to_dicts()}
    finest: dict[str | None, tuple[str, str]] = {}
    for key, (_, grid) in plans.items():
        if len(grid) < 2:  # a line of text has no place in an image
            continue
        best = finest.get(stages[key])
        if best is None or prod(grid) > prod(plans[best][1]):
            finest[stages[key]] = key
    return [_map(key, stage, *plans[key], frames) for stage, key in finest.items()]


def _map(key: tuple[str, str], stage: str | None, plan: Any, grid: tuple[int, ...], frames: int) -> dict[str, Any]:  # noqa: ANN401
    """A site that sees one frame has a row of the batch for every frame; their plans are kept as one over all frames."""
    rows = frames if frames > 1 and len(grid) == 2 and len(plan.assign) % frames == 0 else 1
    offset = torch.arange(rows)[:, None]
    assign = (plan.assign[-rows:].cpu() + offset * plan.num_groups).flatten().tolist()
    rep = (plan.rep[-rows:].cpu() + offset * plan.num_tokens).flatten().tolist()
    over = [rows, *grid] if rows > 1 else list(grid)
    return {"site": key[0], "role": key[1], "stage": stage, "grid": over, "assign": assign, "rep": rep}
