"""The models that can be loaded by name, and data that can be fetched."""

from pathlib import Path

from .catalog import MODELS
from .fetched import DATA_SETS, FETCHED

HEAD = ("name", "task", "size", "licence", "here", "from")
DATA = "data"
"""Stands where a model has its task."""


def table_of_models() -> str:
    """A line for every model and data set: name, task, size, licence, whether it is on this machine, and where it is from."""
    rows = [HEAD, *_shipped(), *_fetched(), *_data_sets()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", "A folder of a diffusers pipeline or a hub id OWNER/NAME can be loaded too."])


def _shipped() -> list[tuple[str, ...]]:
    return [
        (name, model.task.name, _megabytes(_size(model.folder)), model.licence, _word(model.folder.is_dir()), "this package")
        for name, model in MODELS.items()
    ]


def _fetched() -> list[tuple[str, ...]]:
    return [
        (name, model.task.name, _megabytes(model.pin.size), model.licence, _word(model.pin.is_here),
         f"{model.pin.package} {model.pin.version}")
        for name, model in FETCHED.items()
    ]  # fmt: skip


def _data_sets() -> list[tuple[str, ...]]:
    return [
        (name, DATA, _megabytes(data.size), data.licence, _word(data.is_here), f"{data.pins[0].package} {data.pins[0].version}")
        for name, data in DATA_SETS.items()
    ]


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size else "-"


def _word(here: bool) -> str:
    return "yes" if here else "no"
