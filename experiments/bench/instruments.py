"""Instruments around a denoiser: a counter of floating-point operations, and a stopwatch for the parts of its sites."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from torch.utils.hooks import RemovableHandle

from mergekit_diff import SoftPlan
from mergekit_diff.ready import ReadyPlan
from mergekit_diff.sites import find_sites


class Operations:
    """Counts the floating-point operations of a module's calls, such as a denoiser's, and nothing else of a pipeline.

    Args:
        *modules: all that count, none of them inside another.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self.modules, self.total, self.calls = modules, 0, 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count inside this context. torch 2.13 needs a formula for attention on a CPU, which it would count as nothing."""
        on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        mapping: dict[Any, Any] = {on_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)}
        with FlopCounterMode(display=False, custom_mapping=mapping) as counter:

            def before(*_: object) -> None:
                self.total, self.calls = self.total - counter.get_total_flops(), self.calls + 1

            def after(*_: object) -> None:
                self.total += counter.get_total_flops()

            handles = [module.register_forward_pre_hook(before, prepend=True) for module in self.modules]
            handles += [module.register_forward_hook(after) for module in self.modules]
            try:
                yield
            finally:
                for handle in handles:
                    handle.remove()


class MoveTimer:
    """Times what moves tokens by a plan, until it is removed.

    Args:
        report: called with the seconds of every move.
    """

    def __init__(self, report: Callable[[float], None]) -> None:
        self._is_moving = False
        self._own = {
            (kind, name): getattr(kind, name) for kind in (ReadyPlan, SoftPlan) for name in ("merge", "select", "unmerge")
        }
        for (kind, name), move in self._own.items():
            setattr(kind, name, self._timed(move, report))

    def remove(self) -> None:
        """Leave the plans as they were."""
        for (kind, name), move in self._own.items():
            setattr(kind, name, move)

    def _timed(self, move: Callable[..., Tensor], report: Callable[[float], None]) -> Callable[..., Tensor]:
        def timed(plan: object, x: Tensor, /) -> Tensor:
            if self._is_moving:  # one move may be made by another
                return move(plan, x)
            self._is_moving, start = True, _now()
            try:
                return move(plan, x)
            finally:
                self._is_moving = False
                report(_now() - start)

        return timed


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
        self._since, self._inside = 0.0, False

    def attach(self) -> "list[RemovableHandle | MoveTimer]":
        """Register the hooks; call it after the session has registered its own."""
        handles: list[RemovableHandle | MoveTimer] = [self.model.register_forward_pre_hook(self._count)]
        for site in find_sites(self.model):
            handles += self._around(site.block, "plan", None)
            for part in (part for role in self.roles for part in site.parts(role)):
                handles += self._around(part, "merge", "unmerge")
        return [*handles, MoveTimer(self._moved)]  # the last, so that no error leaves plans with a stopwatch

    def milliseconds(self) -> dict[str, float]:
        """Means over the denoiser's calls."""
        return {f"{part}_ms": 1000 * self.spent[part] / max(self.calls, 1) for part in ("plan", "merge", "attention", "unmerge")}

    def _around(self, module: nn.Module, before: str, after: str | None) -> list[RemovableHandle]:
        """Hooks before and after those of the session: what passes between two of them is one part."""
        handles = [
            module.register_forward_pre_hook(lambda *_: self._tick(None), prepend=True),
            module.register_forward_pre_hook(lambda *_: self._tick(before, inside=after is not None)),
        ]
        if after is not None:
            handles.append(module.register_forward_hook(lambda *_: self._tick("attention"), prepend=True))
            handles.append(module.register_forward_hook(lambda *_: self._tick(after)))
        return handles

    def _moved(self, seconds: float) -> None:
        """Keys and values of transformers merge inside the attention, after their rotation."""
        if self._inside:
            self.spent["merge"] += seconds
            self._since += seconds

    def _tick(self, part: str | None, inside: bool = False) -> None:
        now = _now()
        if part is not None:
            self.spent[part] += now - self._since
        self._since, self._inside = now, inside

    def _count(self, *_: object) -> None:
        self.calls += 1


def _now() -> float:
    """Seconds, once the device has done all that was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
