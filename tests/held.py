"""What this process holds: tensors, objects, and memory as the operating system counts it."""

import ctypes
import gc
import os
from pathlib import Path

import torch


def tensors():
    """Number and bytes of all tensors that are alive."""
    gc.collect()
    alive = [one for one in gc.get_objects() if isinstance(one, torch.Tensor)]
    return len(alive), sum(one.numel() * one.element_size() for one in alive)


def resident():
    """Bytes of this process in memory, once garbage is collected and the allocator has given back what it can (Linux, glibc)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
