"""Rows, and a run folder with every part that a run may have, made of noise, so that results are tested without a model."""

import json
from dataclasses import replace

import numpy as np
from PIL import Image

from mergekit_diff.experiments.results.folder import RunFolder
from mergekit_diff.experiments.results.row import Row
from mergekit_diff.experiments.tasks import PICTURE, VIDEO

STEPS = 8
MADE_BY = {"feature": "Net (net 1.0)", "text": "Map (map 1.0)"}
METRICS = ["psnr", "ssim", "feature", "detail", "background", "text", "kid"]
PRIMARY = {"metric": "feature", "better": "lower"}
CELLS = ("retom, refresh=1", "retom, refresh=5", "random-dest", "<b>tomesd</b> $x$")


def a_row(**fields):
    """A row, the fields that a test does not care about filled in."""
    job = fields.get("job", f"{fields.get('cell', 'x')}-{fields.get('prompt', 'p')}-{fields.get('seed', 0)}")
    row = {"job": job, "base": job, "cell": "x", "role": "cell", "against": None, "values": {}, "prompt": "p", "seed": 0}
    row |= {"strategy": "s", "merging": None, "image": f"images/{job}.png", "made_by": {}, "seconds": 1.0, "step_seconds": []}
    return Row(**(row | fields))


def a_study(**fields):
    """The plain data of a study without a control or a sweep, as ``a_row``."""
    study = {"question": "Is it so?", "hypothesis": "", "model": "m", "prompts": ["p"], "seeds": 1, "steps": 1, "guidance": 1.0}
    return study | {"strategy": {"name": "retom"}, "sweep": {}, "metrics": ["psnr"], "primary": None} | fields


def synthetic_run(path, cells=CELLS, prompts=6, seeds=1, side=16, primary=PRIMARY, parts=("costs", "sets", "maps"), frames=1):
    """Write a run folder: a base and cells, the first of which is the control; the later a cell, the farther from the base.

    With more than one of ``frames`` its files are videos.

    With the part "shares", the cost of a step is known as a share of the base's, and every cell is a strategy of its own.
    """
    folder, draw = RunFolder(path), np.random.default_rng(0)
    names = [f"a <i>thing</i> of kind {i}" for i in range(prompts)]
    asked = {"question": "Is it <b>safe</b>?", "hypothesis": "Yes & no.", "primary": primary}
    folder.write_config(a_study(**asked, prompts=names, seeds=seeds, steps=STEPS, metrics=METRICS), ["run", "x"])
    (path / "images").mkdir()
    for number, prompt in enumerate(names):
        for seed in range(seeds):
            image = draw.integers(0, 256, (side, side, 3) if frames == 1 else (frames, side, side, 3))
            for i, cell in enumerate(("base", *cells)):
                row = _row(number, prompt, seed, i, cell, cells[0], draw)
                row = replace(row, values={"strategy.name": cell}) if "shares" in parts and i else row
                noisy = (image + draw.normal(0, 8 * i, image.shape)).clip(0, 255).astype(np.uint8)
                row = replace(row, image=f"images/{row.job}.apng") if frames > 1 else row
                (path / row.image).write_bytes(_file(noisy))
                folder.append(row)
                if i and not number and not seed and "maps" in parts:
                    _write(path / f"maps/{row.job}.json", row.to_json() | {"sites": _sites(i), "maps": [_map(i, frames)]})
    if "costs" in parts:
        shares = [{"share": 1 - 0.1 * i} if "shares" in parts else {} for i in range(1 + len(cells))]
        costs = {cell: _costs(i) | shares[i] for i, cell in enumerate(("base", *cells))}
        _write(path / "costs.json", costs)
    if "sets" in parts:
        _write(path / "sets.json", {cell: {"kid": _kid(i)} for i, cell in enumerate(("base", *cells))})
    return folder


def _row(number, prompt, seed, i, cell, control, draw):
    base, job = f"{number}-{seed}-0", f"{number}-{seed}-{i}"
    role = "cell" if i > 1 else "control" if i else "base"
    row = {"job": job, "base": base, "cell": cell, "role": role, "against": control if i > 1 else None, "prompt": prompt}
    row |= {
        "seed": seed,
        "image": f"images/{job}.png",
        "made_by": MADE_BY,
        "seconds": 2.0 - 0.2 * i,
        "step_seconds": [0.2] * STEPS,
    }
    metrics = {"text": 0.6 - 0.05 * i + draw.normal(0, 0.01)}
    if not i:
        return a_row(**row, strategy="base", metrics=metrics)
    wobble = draw.normal(1, 0.05)
    metrics |= {"psnr": 30 - 3 * i * wobble, "ssim": 1 - 0.05 * i * wobble, "feature": 0.02 * i * wobble}
    metrics |= {"detail": 1 - 0.1 * i * wobble, "background": 2.0 * i * wobble}
    rises = np.full(STEPS, 0.01 * i) * wobble + np.eye(STEPS)[5] * 0.05 * i
    row |= {"strategy": f"{('ReToM', 'ReToM', 'RandomDest', 'ToMeSD')[(i - 1) % 4]}(ratio=0.5)"}
    row |= {
        "merging": {"refresh": 5 if i == 2 else 1},
        "tokens_before": 4096,
        "tokens_after": 2048.0,
        "asked": 0.5,
        "granted": 0.5,
    }
    row |= {"drift": rises.cumsum().tolist(), "kept": [0.5] * STEPS, "stale": [None, *[0.05 * i] * (STEPS - 1)]}
    return a_row(**row, metrics=metrics)


def _sites(i):
    steps = {str(step): [256, 256 - 16 * min(i + step, 15)] for step in range(STEPS)}
    common = {"role": "self_attention", "grid": [16, 16], "tokens": 256, "kept": 128.0, "asked": 0.5, "granted": 0.5}
    common |= {"level": 0, "plans": 1, "planned": 1, "calls": STEPS, "note": "", "by_step": steps}
    return [common | {"site": f"{stage}.{n}", "stage": stage} for stage in ("down", "mid", "up") for n in range(3)]


def _file(pixels):
    """A PNG of (H, W, 3), an animated one of (F, H, W, 3)."""
    if pixels.ndim == 3:
        return PICTURE.encode(Image.fromarray(pixels))
    return VIDEO.encode([Image.fromarray(frame) for frame in pixels])


def _map(i, frames):
    """Of 16 tokens; of a video, in as many planes as it has frames."""
    n = 16 * frames
    groups = max(8, n - i)
    assign = np.minimum(np.arange(n), groups - 1).tolist()
    grid = [4, 4] if frames == 1 else [frames, 4, 4]
    return {"site": "up.0", "role": "self_attention", "stage": "up", "grid": grid, "assign": assign, "rep": list(range(groups))}


def _costs(i):
    seconds = {"median": 0.2 - 0.01 * i, "low": 0.19 - 0.01 * i, "high": 0.21 - 0.01 * i}
    times = {"plan_ms": 1.0 * i, "merge_ms": 0.5, "unmerge_ms": 0.4, "attention_ms": 20.0 - i}
    return {"flops": 8e9 - 5e8 * i, "step_seconds": seconds, **times, "peak_bytes": 2**28}


def _kid(i):
    value = 0.01 + 0.004 * i
    spread = {"low": value - 0.003, "high": value + 0.003}
    return {"value": value, **spread, "n": 6, "reference_n": 400, "floor": 0.001, "made_by": "Net (net 1.0)"}


def _write(path, data):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(data))
