"""A diffusion transformer to be timed: diffusers' own class at its true width, with a few blocks of each kind or with all."""

import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .config import Bench
from .filling import Subject, randomly
from .transformer_sizes import Request, Transformer


def transformer_subject(size: Transformer, bench: Bench, device: str) -> Subject:
    """What ``bench`` times, on a device; on the meta device, only its shapes.

    Args:
        size: of the transformer.
        bench: with ``at="block"``, ``blocks`` of each kind between the layers that are around the blocks; with "step", all.
        device: where.

    Raises:
        MemoryError: the weights are larger than the memory; the message is one line.
    """
    dtype = getattr(torch, bench.dtype)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if bench.at == "step":
            _check_room(size, bench, device, dtype)
        with torch.device(device):
            model = _built(size, bench)
        for parameter in model.parameters():  # tables of positions keep their precision
            parameter.data = parameter.data.to(dtype)
        grid = size.grid(*bench.height_and_width(), bench.num_frames())
        inputs: Any = size.inputs(Request(bench.batch, grid, size.words, model.config))
        inputs = randomly(inputs, device, dtype)
    if device == "meta":
        _follow(model)
    sample = inputs.pop(next(iter(inputs)))
    here = "cpu" if device == "meta" else device

    def time(timestep: float) -> Tensor:
        return torch.full((bench.batch,), size.noise * timestep / 1000, device=here)

    return Subject(model, sample, inputs, time=time)


def _built(size: Transformer, bench: Bench) -> Any:  # noqa: ANN401
    import diffusers

    build = getattr(diffusers, size.name)
    if bench.at == "step":
        return build(**size.config).eval()
    # One more of each kind, which goes: the last block of Stable Diffusion 3 leaves out what follows its text.
    model = build(**dict(size.config) | {key: bench.blocks + 1 for _, key in size.kinds.values()}).eval()
    for kind, (blocks, _) in size.kinds.items():
        setattr(model, blocks, getattr(model, blocks)[: bench.blocks if bench.kind in (None, kind) else 0])
    return model


def _check_room(size: Transformer, bench: Bench, device: str, dtype: torch.dtype) -> None:
    if device == "meta":
        return
    with torch.device("meta"):
        needed = sum(parameter.numel() for parameter in _built(size, bench).parameters()) * dtype.itemsize
    on_cuda = device.startswith("cuda")
    room = torch.cuda.mem_get_info()[1] if on_cuda else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > room:
        sizes = f"{needed / 2**30:.1f} GiB of weights, got {room / 2**30:.1f}"
        raise MemoryError(f"expected room for {sizes}; one block needs less, what=flops none")


def _follow(model: nn.Module) -> None:
    """Inputs with values, from which layouts are read, lose them where they enter a module inside a model on the meta device."""

    def to_meta(value: Any) -> Any:  # noqa: ANN401
        return value.to("meta") if isinstance(value, Tensor) else value

    def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        return tree_map(to_meta, (args, kwargs))

    for module in model.modules():
        if module is not model and next(module.parameters(), None) is not None:
            module.register_forward_pre_hook(enter, with_kwargs=True)
