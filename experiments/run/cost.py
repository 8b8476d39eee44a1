"""What a cell costs: operations, the parts of the time, memory. Each cell makes two more images, under instruments."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ..bench.instruments import Operations, Parts
from ..study.cell import Cell
from .call import scheduled
from .result import make_result

Costs = dict[str, Any]


def costs(pipe: Any, planned: Sequence[Cell], prompt: str) -> dict[str, Costs]:  # noqa: ANN401
    """Costs by cell, bases included, as means over the denoiser calls of one image.

    Returns:
        flops; plan_ms, merge_ms, unmerge_ms and attention_ms, each over all sites together; peak_bytes on CUDA, else None.
        All layers that run on merged tokens count as attention, the feed-forward too if a cell merges there.
    """
    bases = {cell.base().name: cell.base() for cell in planned}
    roles = sorted({role for cell in planned for role in (cell.merging or {}).get("roles", ())})
    every = {**bases, **{cell.name: cell for cell in planned}}
    return {name: _cost(pipe, cell, prompt, roles) for name, cell in every.items()}


def _cost(pipe: Any, cell: Cell, prompt: str, roles: list[str]) -> Costs:  # noqa: ANN401
    model = getattr(pipe, "unet", None) or pipe.transformer
    cell = replace(cell, study=replace(cell.study, probes=[]))  # a probe plans too, which is not a cost of the cell
    on_gpu = pipe.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    parts, counter = Parts(model, roles), Operations(model)
    with scheduled(pipe, cell):
        make_result(pipe, cell, prompt, 0, watch=parts.attach)
        peak = torch.cuda.max_memory_allocated() if on_gpu else None
        with counter.counting():
            make_result(pipe, cell, prompt, 0)
    return {"flops": counter.total / counter.calls, **parts.milliseconds(), "peak_bytes": peak}
