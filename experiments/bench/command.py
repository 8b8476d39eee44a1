"""The command ``mergekit-diff bench``: measure, print the tables, write the requested files."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..files import write_atomically
from ..models import check_device, resolve_device, use_threads
from ..provenance import git_commit, processor, versions
from ..terminal import complain, progress_bar, say, show_table
from . import log_sizes, scaling, startup, tables
from .config import CALL_STEPS, Bench, check_outputs
from .peers import has_tomesd
from .results import rows_of
from .subject import subject
from .timing import Times, count, take_turns, turns
from .variants import Entries, all_roles, named_strategies, variants

Rounds = dict[str, Any]
PLOTTED = ("time", "flops", "scaling")


def run_bench(bench: Bench, table: Path | None = None, plot: Path | None = None) -> int:
    """Measure and print; 0, or 1 if it failed.

    Args:
        bench: the measurement.
        table: a JSON file for rows, all rounds, versions and threads.
        plot: a .png, .svg or .pdf file.

    Raises:
        ValueError: the input is wrong; nothing was measured.
    """
    check_outputs(table, plot)
    if plot is not None and bench.what not in PLOTTED:
        raise ValueError(f"plot: expected none with what={bench.what}, got {plot}")
    entries = named_strategies(bench)
    check_device(bench.device)
    use_threads(bench.threads)
    try:
        measure = {"scaling": _curves, "startup": _small_costs, "log-sizes": _log_sizes}.get(bench.what, _variants)
        rows, rounds = measure(bench, entries)
    except Exception as error:  # the input was right, so this is a failure of the measurement
        complain(f"error: {type(error).__name__}: {error}")
        return 1
    _show(bench, rows)
    if table is not None:
        write_atomically(table, json.dumps(_record(bench, rows, rounds), indent=1).encode())
        say(f"rows and rounds: {table}")
    if plot is not None:
        from . import plots

        draw = {"time": plots.draw_times, "flops": plots.draw_flops, "scaling": plots.draw_scaling}[bench.what]
        draw(rows, title(bench), plot)
        say(f"plot: {plot}")
    return 0


def title(bench: Bench) -> str:
    """What was measured, in one line."""
    if bench.what == "scaling":
        return f"Planning on {bench.grid_axes()}-D grids, {bench.size}'s width, batch {bench.batch}, ratio {bench.ratio}"
    if bench.what == "startup":
        return f"What merging costs besides merging, steps of {bench.size}, batch {bench.batch}"
    (height, width), frames = bench.height_and_width(), bench.num_frames()
    shape = f"{height}x{width} pixels" + (f", {frames} frames" if frames else "")
    if bench.what == "log-sizes":
        return f"Log sizes in an attention of {bench.size}, {shape}, batch {bench.batch}, ratio {bench.ratio}, {bench.dtype}"
    part = {
        "layer": "attention layer",
        "block": f"{bench.kind or 'transformer'} block",
        "step": "denoising step",
        "call": f"call of {CALL_STEPS} steps",
    }[bench.at]
    number = "one" if bench.blocks == 1 else f"{bench.blocks} of each"
    return f"{bench.size}, {number} {part}, {shape}, batch {bench.batch}, ratio {bench.ratio}, {bench.dtype}, random weights"


def _variants(bench: Bench, entries: Entries) -> tuple[list[dict[str, Any]], Rounds]:
    timed = bench.what == "time"
    model = subject(bench, None if timed else "meta")
    every = variants(bench, entries, model.latents)
    times: Times | None = None
    with progress_bar("bench", len(every) + (turns(model, every, bench.rounds) if timed else 0)) as advance:
        counts = {}
        for variant in every:
            counts[variant.name] = count(model, variant)
            advance()
        if timed:
            times = take_turns(model, every, bench.rounds, all_roles(bench, entries), advance)
    return rows_of(every, bench.refresh, counts, times), times or {}


def _curves(bench: Bench, entries: Entries) -> tuple[list[dict[str, Any]], Rounds]:
    with progress_bar("sizes", len(scaling.SIZES)) as advance:
        curves = scaling.scaling(bench, entries, scaling.SIZES, advance)
    return [curve.row() for curve in curves], {curve.name: curve.seconds for curve in curves}


def _small_costs(bench: Bench, entries: Entries) -> tuple[list[dict[str, Any]], Rounds]:
    with progress_bar("small costs", 3) as advance:
        return startup.startup(bench, advance)


def _log_sizes(bench: Bench, entries: Entries) -> tuple[list[dict[str, Any]], Rounds]:
    with progress_bar("rounds", bench.rounds) as advance:
        return log_sizes.log_sizes(bench, advance)


def _show(bench: Bench, rows: list[dict[str, Any]]) -> None:
    if bench.what == "scaling":
        for name, table in tables.scaling_tables(rows, bench):
            show_table(f"{name}. {title(bench)}", table)
    elif bench.what == "startup":
        show_table(f"{title(bench)}; medians of {bench.rounds} rounds", tables.startup_table(rows, bench))
    elif bench.what == "log-sizes":
        show_table(f"{title(bench)}; medians of {bench.rounds} rounds", tables.log_sizes_table(rows))
    elif bench.what == "flops":
        show_table(title(bench), tables.flops_table(rows))
    else:
        show_table(f"{title(bench)}; medians of {bench.rounds} rounds", tables.time_table(rows))
        show_table("Where the time goes, in one call over all sites", tables.parts_table(rows))
        if bench.gate != "none":
            show_table("What the gate predicted, for a mean call", tables.gate_table(rows))
        say(f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if not has_tomesd() and bench.what in PLOTTED:
        say("tomesd is not in the tables, since that package is not installed")


def _record(bench: Bench, rows: list[dict[str, Any]], rounds: Rounds) -> dict[str, Any]:
    device = resolve_device(bench.device)
    machine = torch.cuda.get_device_name() if device == "cuda" else processor()
    return {
        "bench": asdict(bench),
        "versions": versions() | ({"tomesd": _tomesd_version()} if has_tomesd() else {}),
        "git": git_commit(),
        "machine": {"device": device, "name": machine, "cores": os.cpu_count(), "threads": torch.get_num_threads(),
                    "load": os.getloadavg()},
        "rows": rows,
        "rounds": rounds,
    }  # fmt: skip


def _tomesd_version() -> str:
    from importlib.metadata import version

    return version("tomesd")
