"""What a cell costs: in this model, for which each cell makes two more images under instruments, and in a large U-Net.

The small model is where fidelity is measured, but what merging saves and what planning costs there says little about models that
people merge in. Strategies are therefore compared at equal cost by the shares that :func:`shares` gives.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ..bench.instruments import Operations, Parts
from ..bench.overhead import Overhead, Way, machine, overheads
from ..bench.step_share import blocks_share, sites_of_a_grid, step_share
from ..results.run import Run
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


def shares(run: Run, planned: Sequence[Cell], device: str, dtype: str) -> dict[str, Costs]:
    """By cell, what a denoising step costs as a share of the base's, for a U-Net of Stable Diffusion 1.5's shape at 1024 pixels.

    It is no wall time and no speed-up: operations of convolutions and of attention count alike, whatever a device makes of
    them; the ratio is the one that the study's model was granted, the same for all sites; and a planning time that grows
    faster than the number of tokens is larger at 1024 pixels than in the block that is timed.

    Args:
        run: its rows say which share of the tokens every step kept, and how many steps a plan served.
        planned: the cells of the study.
        device: where the time to plan and to move tokens is measured, such as "cpu".
        dtype: of those tokens.

    Returns:
        share: the cost of a step, 1 without merging; the sum of the next two.
        share_flops: operations at latents of 128x128, batch 2, mean over steps and images; without those of planning.
        share_overhead: the time to plan, divided by the steps (with ``share="grid"`` also by the sites) that a plan serves, and
        to merge and unmerge. Timed in one block of 4,096 tokens of 320 channels, batch 2, as a share of the time of that block
        without merging, times the share of the step's operations that the merging blocks do.
        measured_on: the machine that the times are of.
    """
    cells = {cell.name: cell for cell in planned if cell.strategy is not None and cell.name in run.cells}
    times = overheads({name: _way(cell) for name, cell in cells.items()}, device, dtype)
    both = {name: (1.0, 0.0) for name in run.cells} | {name: _share(run, cell, times[name]) for name, cell in cells.items()}
    keys, where = ("share", "share_flops", "share_overhead"), {"measured_on": machine(device)}
    return {
        name: dict(zip(keys, (flops + overhead, flops, overhead), strict=True)) | where
        for name, (flops, overhead) in both.items()
    }


def _way(cell: Cell) -> Way:
    assert cell.strategy is not None and cell.merging is not None
    options = cell.merging
    return Way(cell.strategy, tuple(options["roles"]), tuple(options["share"]), options["proportional"])


def _share(run: Run, cell: Cell, time: Overhead) -> tuple[float, float]:
    options = cell.merging or {}
    kept = [share for row in run.cells[cell.name] for share in row.kept]
    served = run.lines[cell.name].plan_every or 1.0
    if "grid" in options["share"]:
        served *= sites_of_a_grid(options["levels"])
    added = blocks_share(options["levels"]) * (time.plan / served + time.move)
    return step_share(options["roles"], options["levels"], kept), added


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
