"""What a cell costs: in this model, for which each cell makes more images under instruments, and in a large one of its kind.

The small model is where fidelity is measured, but what merging saves and what planning costs there says little about models that
people merge in. Strategies are therefore compared at equal cost by the shares that :func:`shares` gives.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch

from ..bench.instruments import Operations, Parts
from ..bench.large import Large
from ..bench.overhead import Overhead, Way, overhead
from ..bench.step_share import blocks_share, sites_of_a_grid, step_share
from ..bench.timing import Seconds
from ..bench.variants import BASE
from ..results.row import Row
from ..results.run import Run
from ..study.cell import Cell
from .call import prepared
from .result import make_result

Costs = dict[str, Any]


def costs(pipe: Any, run: Run, planned: Sequence[Cell]) -> dict[str, Costs]:  # noqa: ANN401
    """Costs by cell, bases included, as means over the denoiser calls of one image of the study's first prompt.

    Operations are counted in an image of their own, of two steps where the run says that the cell keeps as many tokens at one
    step as at another, since counting takes more time than what is counted.

    Returns:
        flops; plan_ms, merge_ms, unmerge_ms and attention_ms, each over all sites together; peak_bytes on CUDA, else None.
        All layers that run on merged tokens count as attention, the feed-forward too if a cell merges there.
    """
    bases = {cell.base().name: cell.base() for cell in planned}
    roles = sorted({role for cell in planned for role in (cell.merging or {}).get("roles", ())})
    every = {**bases, **{cell.name: cell for cell in planned}}
    return {
        name: _cost(pipe, cell, roles, len({s for row in run.cells[name] for s in row.kept}) > 1) for name, cell in every.items()
    }


def block_ways(planned: Iterable[Cell]) -> dict[str, Way]:
    """How each cell merges, to be timed in one block; bases are left out."""
    return {
        cell.name: Way(cell.strategy, tuple(options["roles"]), tuple(options["share"]), options["proportional"])
        for cell in planned
        if cell.strategy is not None and (options := cell.merging) is not None
    }


def shares(
    run: Run, planned: Sequence[Cell], large: Large, times: Mapping[str, Sequence[Seconds]], where: str
) -> dict[str, Costs]:
    """By cell, what a denoising step costs as a share of the base's, in a large model of the same kind.

    It is no wall time and no speed-up: operations of convolutions and of attention count alike, whatever a device makes of
    them; the ratio is the one that the study's model was granted, the same for all sites; and a planning time that grows
    faster than the number of tokens is larger in the step than in the block that is timed, which has fewer. A step cache is
    taken to skip as many blocks there as in the study's model, and every block to do the same number of operations.

    Args:
        run: its rows say which share of the tokens every step kept, and how many steps a plan served.
        planned: the cells of the study.
        large: the model.
        times: of the base and of every cell in one block, as from :func:`mergekit_diff.experiments.bench.overhead.block_times`.
        where: the machine that these are of.

    Returns:
        share: the cost of a step, 1 without merging; the sum of the next two.
        share_flops: operations, mean over steps and images; without those of planning.
        share_overhead: the time to plan, divided by the steps (with ``share="grid"`` also by the sites) that a plan serves, and
        to merge and unmerge, both divided by the blocks of a span. Timed in one block, as a share of the time of that block
        without merging, times the share of the step's operations that the merging blocks do.
        like: the name of the large model.
        measured_on: the machine that the times are of.
    """
    both = {name: (1.0, 0.0) for name in run.cells}
    present = [cell for cell in planned if cell.name in both]
    both |= {cell.name: _share(run, cell, large, overhead(times[cell.name], times[BASE])) for cell in present}
    keys, on = ("share", "share_flops", "share_overhead"), {"like": large.name, "measured_on": where}
    return {name: dict(zip(keys, (flops + added, flops, added), strict=True)) | on for name, (flops, added) in both.items()}


def _share(run: Run, cell: Cell, large: Large, time: Overhead) -> tuple[float, float]:
    options = cell.merging or {}
    kept = [share for row in run.cells[cell.name] for share in row.kept]
    served = run.lines[cell.name].plan_every or 1.0
    if "grid" in options["share"]:
        served *= sites_of_a_grid(options["levels"], large.step)
    added = blocks_share(options["levels"], large.step) * (time.plan / served + time.move) / options["span"]
    share, ran = step_share(options["roles"], options["levels"], kept, large.step), _computed(run.cells[cell.name])
    around = 1 - blocks_share(None, large.step)
    return around + ran * (share - around), ran * added


def _computed(rows: Sequence[Row]) -> float:
    """Share of the blocks that ran, mean over the images."""
    return fmean(1.0 if row.computed is None else row.computed for row in rows)


def _cost(pipe: Any, cell: Cell, roles: list[str], changes: bool) -> Costs:  # noqa: ANN401
    model = getattr(pipe, "unet", None) or pipe.transformer
    study = replace(cell.study, probes=[], metrics=[])  # what watches a cell plans too, or runs its layers again
    changes = changes or study.cache is not None
    cell, counted = (replace(cell, study=one) for one in (study, study if changes else replace(study, steps=min(2, study.steps))))
    prompt = study.prompts[0]
    on_gpu = pipe.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    parts, counter = Parts(model, roles), Operations(model)
    with prepared(pipe, cell):
        make_result(pipe, cell, prompt, 0, watch=parts.attach)
    peak = torch.cuda.max_memory_allocated() if on_gpu else None
    with prepared(pipe, counted), counter.counting():
        make_result(pipe, counted, prompt, 0)
    return {"flops": counter.total / counter.calls, **parts.milliseconds(), "peak_bytes": peak}
