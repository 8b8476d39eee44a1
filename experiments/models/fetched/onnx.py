"""Reads weights and operations of an ONNX file as data: a bounded reader of the few fields of the format that are needed.

The format is Protocol Buffers: every field is a key, its number and one of four kinds, and a value. Fields that are not named
here are skipped. Nothing is computed by what the file says.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MOST_NUMBERS = 1 << 28
"""A tensor may have no more."""
FLOAT, INT64 = 1, 7
DTYPES = {FLOAT: np.dtype("<f4"), INT64: np.dtype("<i8")}
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Node:
    """An operation: its kind, its name, and the names of the values that it reads and makes."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """What is read of a file.

    Args:
        weights: float32 and int64 tensors by name; others are left out.
        nodes: the operations, in the order in which they run.
    """

    weights: dict[str, Tensor]
    nodes: list[Node]


def read_graph(path: Path) -> Graph:
    """The weights and operations of an ONNX file.

    Raises:
        ValueError: it is cut off, or is no ONNX file with a graph.
    """
    try:
        for number, value in _fields(memoryview(path.read_bytes())):
            if number == 7 and isinstance(value, memoryview):
                return _graph(value)
    except (IndexError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"expected an ONNX file in {path}, got: {error}") from None
    raise ValueError(f"expected an ONNX file in {path}, got one without a graph")


def _graph(data: memoryview) -> Graph:
    weights, nodes = dict[str, Tensor](), list[Node]()
    for number, value in _fields(data):
        if number == 1:
            nodes.append(_node(value))
        elif number == 5:
            name, tensor = _tensor(value)
            weights |= {} if tensor is None else {name: tensor}
    return Graph(weights, nodes)


def _node(data: int | memoryview) -> Node:
    words: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: []}
    for number, value in _fields(_bytes(data)):
        if number in words:
            words[number].append(_text(value))
    inputs, outputs, names, kinds = words.values()
    return Node("".join(kinds), "".join(names), tuple(inputs), tuple(outputs))


def _tensor(data: int | memoryview) -> tuple[str, Tensor | None]:
    """Name and content; only little-endian bytes of known types are read."""
    shape, dtype, name, raw = list[int](), 0, "", memoryview(b"")
    for number, value in _fields(_bytes(data)):
        if number == 1:
            shape += [value] if isinstance(value, int) else list(_varints(value))
        elif number == 2 and isinstance(value, int):
            dtype = value
        elif number == 8:
            name = _text(value)
        elif number == 9:
            raw = _bytes(value)
    if dtype not in DTYPES or not raw.nbytes:
        return name, None
    count = math.prod(shape)
    if count > MOST_NUMBERS or raw.nbytes != count * DTYPES[dtype].itemsize:
        raise ValueError(f"expected {shape} numbers of weight {name!r}, got {raw.nbytes} bytes")
    return name, torch.from_numpy(np.frombuffer(raw, DTYPES[dtype]).reshape(shape).copy())


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of every field of a message."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == VARINT:
            value, place = _varint(data, place)
        elif kind in (BYTES, FIXED64, FIXED32):
            size, place = _varint(data, place) if kind == BYTES else (8 if kind == FIXED64 else 4, place)
            value, place = data[place : place + size], place + size
        else:
            raise ValueError(f"expected a field of Protocol Buffers, got one of kind {kind}")
        if place > len(data):
            raise ValueError("expected a whole message, got one that is cut off")
        yield key >> 3, value


def _varints(data: memoryview) -> Iterator[int]:
    place = 0
    while place < len(data):
        value, place = _varint(data, place)
        yield value


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """A number of at most 64 bits, seven to a byte, and the place behind it."""
    value = 0
    for i in range(10):
        byte = data[place + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, place + i + 1
    raise ValueError("expected a number of at most 64 bits, got a longer one")


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise TypeError("a number where bytes should be")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_bytes(value)).decode()
