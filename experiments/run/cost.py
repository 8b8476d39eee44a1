"""What a cell costs: operations, the parts of the time, memory. Each cell makes one picture more under instruments."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from torch.utils.hooks import RemovableHandle

from mergekit_diff.sites import find_sites

from ..study.sweep import Cell
from .picture import make_picture, scheduled

Costs = dict[str, Any]


def costs(pipe: Any, planned: Sequence[Cell], prompt: str) -> dict[str, Costs]:  # noqa: ANN401
    """Costs by cell, the bases too, as means over the denoiser calls of one picture.

    Returns:
        flops; plan_ms, merge_ms, unmerge_ms and attention_ms, each over all sites together; peak_bytes on CUDA, else None.
        What runs on merged tokens (feed-forward too, if a cell merges there) counts as attention.
    """
    bases = {cell.base().name: cell.base() for cell in planned}
    roles = sorted({role for cell in planned for role in (cell.merging or {}).get("roles", ())})
    every = {**bases, **{cell.name: cell for cell in planned}}
    return {name: _cost(pipe, cell, prompt, roles) for name, cell in every.items()}


def _cost(pipe: Any, cell: Cell, prompt: str, roles: list[str]) -> Costs:  # noqa: ANN401
    model = getattr(pipe, "unet", None) or pipe.transformer
    cell = replace(cell, study=replace(cell.study, probes=[]))  # a probe plans too, which is no cost of the cell
    on_gpu = pipe.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    parts, counter = Parts(model, roles), Operations(model)
    with scheduled(pipe, cell):
        make_picture(pipe, cell, prompt, 0, look=parts.attach)
        peak = torch.cuda.max_memory_allocated() if on_gpu else None
        with counter.counting():
            make_picture(pipe, cell, prompt, 0)
    return {"flops": counter.total / counter.calls, **parts.milliseconds(), "peak_bytes": peak}


class Operations:
    """Counts the floating-point operations of a denoiser's calls, and nothing else of a pipeline.

    Args:
        model: the denoiser.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.total, self.calls = model, 0, 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """While this lasts. torch 2.13 counts nothing for attention on a CPU unless it is told how."""
        on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        mapping: dict[Any, Any] = {on_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)}
        with FlopCounterMode(display=False, custom_mapping=mapping) as counter:

            def before(*_: object) -> None:
                self.total, self.calls = self.total - counter.get_total_flops(), self.calls + 1

            def after(*_: object) -> None:
                self.total += counter.get_total_flops()

            handles = [self.model.register_forward_pre_hook(before, prepend=True), self.model.register_forward_hook(after)]
            try:
                yield
            finally:
                for handle in handles:
                    handle.remove()


class Parts:
    """Times planning, merging, the merged layers themselves and unmerging, by hooks around the session's hooks.

    Args:
        model: the denoiser.
        roles: whose submodules are timed.
    """

    def __init__(self, model: nn.Module, roles: Sequence[str]) -> None:
        self.model = model
        self.roles = {"self_attention" if role == "key_value" else role for role in roles}
        self.spent: dict[str, float] = defaultdict(float)
        self.calls = 0
        self._since = 0.0

    def attach(self) -> list[RemovableHandle]:
        """Register the hooks, after those of the session."""
        handles = [self.model.register_forward_pre_hook(self._count)]
        for site in find_sites(self.model):
            handles += self._around(site.block, "plan", None)
            for role in self.roles & set(site.roles):
                handles += self._around(site.roles[role], "merge", "unmerge")
        return handles

    def milliseconds(self) -> dict[str, float]:
        """Means over the denoiser's calls."""
        return {f"{part}_ms": 1000 * self.spent[part] / max(self.calls, 1) for part in ("plan", "merge", "attention", "unmerge")}

    def _around(self, module: nn.Module, before: str, after: str | None) -> list[RemovableHandle]:
        handles = [
            module.register_forward_pre_hook(lambda *_: self._tick(None), prepend=True),
            module.register_forward_pre_hook(lambda *_: self._tick(before)),
        ]
        if after is not None:
            handles.append(module.register_forward_hook(lambda *_: self._tick("attention"), prepend=True))
            handles.append(module.register_forward_hook(lambda *_: self._tick(after)))
        return handles

    def _tick(self, part: str | None) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if part is not None:
            self.spent[part] += now - self._since
        self._since = now

    def _count(self, *_: object) -> None:
        self.calls += 1
