"""How fast a device does the work that merging saves and costs: measured once, and kept in a file."""

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .plan import MergePlan

ROUNDS = 5  # of which the median counts: one interruption by another process leaves it alone
TOKENS, WIDTH, HEADS = 1024, 320, 8  # of the tensors that are timed: a typical layer of a diffusion U-Net


@dataclass(frozen=True)
class Speed:
    """The time that a device takes, in seconds.

    Args:
        linear: per floating-point operation of a linear layer.
        attention: per floating-point operation of scaled dot-product attention.
        move: per byte of the tokens that are merged and unmerged, both together.
        call: per merge and unmerge, whatever the number of tokens.
        sized: more per floating-point operation of attention where log sizes are added to its scores.
    """

    linear: float
    attention: float
    move: float
    call: float
    sized: float = 0.0


def speed(device: torch.device, dtype: torch.dtype) -> Speed:
    """The speed of a device; it is measured the first time, which takes less than a second."""
    return Speed(**_remember(f"rates of {_name(device, dtype)}", lambda: asdict(_measure(device, dtype))))


def seconds_of_plan(what: str, x: Tensor, plan: Callable[[], object]) -> float:
    """Seconds that making a plan takes; measured the first time.

    Args:
        what: identifies the strategy, its settings and its code.
        x: (B, N, C) tokens that the plan is for.
        plan: makes the plan.
    """
    key = f"{_name(x.device, x.dtype)}, plan of {tuple(x.shape)} by {what}"
    return _remember(key, lambda: _seconds(plan, x.device))


def _measure(device: torch.device, dtype: torch.dtype) -> Speed:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, TOKENS, WIDTH, generator=draw).to(device, dtype)
    weight, heads = x[0], x.view(2, TOKENS, HEADS, WIDTH // HEADS).transpose(1, 2)
    linear = _seconds(lambda: F.linear(x, weight), device) / (2 * x.numel() * TOKENS)
    bias = x.new_zeros(2, 1, 1, TOKENS)
    plain = _seconds(lambda: F.scaled_dot_product_attention(heads, heads, heads), device)
    biased = _seconds(lambda: F.scaled_dot_product_attention(heads, heads, heads, attn_mask=bias), device)
    attention, sized = (seconds / (4 * x.numel() * TOKENS) for seconds in (plain, max(biased - plain, 0.0)))
    call, move = _seconds(_there_and_back(x[:, :16, :8]), device), _seconds(_there_and_back(x), device)
    return Speed(linear, attention, max(move - call, 0.0) / (x.numel() * x.element_size()), call, sized)


def _there_and_back(x: Tensor) -> Callable[[], Tensor]:
    n = x.shape[1]
    plan = MergePlan.from_target(torch.arange(n, device=x.device)[None] // 2 * 2, n // 2).ready(len(x))
    return lambda: plan.unmerge(plan.merge(x))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Median of a few rounds, after one warm-up."""
    times = []
    with torch.no_grad():
        for _ in range(1 + ROUNDS):
            _wait(device)
            start = time.perf_counter()
            work()
            _wait(device)
            times.append(time.perf_counter() - start)
    return median(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(device: torch.device, dtype: torch.dtype) -> str:
    if device.type == "cuda":
        what = torch.cuda.get_device_name(device)
    else:
        what = f"{device.type} of {platform.node()}, {torch.get_num_threads()} threads"
    return f"{what}, {dtype}, torch {torch.__version__}"


def _file() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "mergekit_diff" / "speed.json"


_memory: dict[str, Any] = {}


def _remember(key: str, measure: Callable[[], Any]) -> Any:  # noqa: ANN401
    """The measurement under this key: of this process, from the file, or new; without a writable home it is not kept."""
    if key in _memory:
        return _memory[key]
    kept = _read()
    if key not in kept:
        kept[key] = measure()
        path = _file()
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.{os.getpid()}.part")
            part.write_text(json.dumps(kept, indent=1))
            part.replace(path)
    _memory[key] = kept[key]
    return kept[key]


def _read() -> dict[str, Any]:
    try:
        kept = json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}
