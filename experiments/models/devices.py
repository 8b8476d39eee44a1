"""Devices, processes and threads: what a study or a measurement asks for, and whether this machine has it."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

MOST = 4
"""Processes that "auto" starts at most on a CPU, since each holds the whole model."""


def resolve_device(device: str) -> str:
    """The device that is meant: "auto" is CUDA if there is one, else the CPU."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def check_device(device: str, devices: int = 1) -> None:
    """Refuse a device that this machine does not have, before any weight is loaded.

    Args:
        device: "auto", "cpu", "cuda" or "mps".
        devices: how many of them are needed.

    Raises:
        ValueError: there are none or too few; the message is one line.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: expected a device of this machine, got cuda, but torch finds no CUDA device")
    if devices > 1 and not _has_loopback():
        raise ValueError(f"devices: expected 1 where the loopback interface is down, got {devices}")
    if resolve_device(device) == "cuda" and devices > torch.cuda.device_count():
        raise ValueError(
            f"devices: expected at most {torch.cuda.device_count()}, the CUDA devices that torch finds, got {devices}"
        )


def processes(device: str, devices: int | str) -> int:
    """How many processes share the images: ``devices``, where "auto" is a process for every core of a CPU, and otherwise one.

    A process with one thread and an image of its own wastes less than threads that wait for each other at every small layer.
    Where processes cannot reach each other, as in a sandbox without a loopback interface, "auto" is one.
    """
    if devices != "auto":
        return int(devices)
    return min(MOST, _cores()) if resolve_device(device) == "cpu" and _has_loopback() else 1


@contextmanager
def shared_cores(device: str, devices: int, threads: int | None) -> Iterator[None]:
    """Inside, this process uses its part of the cores; afterwards, when it is alone again, as many as before.

    Args:
        device: as in :func:`resolve_device`.
        devices: processes on this machine.
        threads: what the user asked for; None takes an equal part.
    """
    import torch

    before = torch.get_num_threads()
    if devices > 1 and threads is None and resolve_device(device) == "cpu":
        torch.set_num_threads(max(1, _cores() // devices))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _has_loopback() -> bool:
    """Whether two processes of this machine can connect to each other; else they would wait for each other without end."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()[:2], timeout=1):
            return True
    except OSError:
        return False


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_threads(threads: int | None) -> None:
    """Let torch use this many threads; None keeps torch's own choice."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
