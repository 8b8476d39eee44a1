"""Pretrained models that lie inside packages. This project did not train them, and ships none of their weights."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ...tasks import Task
from .fetch import checked, fetch
from .pin import Pin

__all__ = ["FETCHED", "Fetched", "Pin", "checked", "fetch"]


@dataclass(frozen=True)
class Fetched:
    """A model in one file inside a package.

    Args:
        pin: the file.
        task: what the model makes.
        licence: of the package, as it says itself.
        load: makes what the task calls from the file, whose bytes were checked, and the name of a dtype.
    """

    pin: Pin
    task: Task
    licence: str
    load: Callable[[Path, str], Any]


def _at(place: str) -> Callable[..., Any]:
    """A function of this package that is imported when it is called."""
    module, function = place.split(":")

    def load(*args: Any) -> Any:  # noqa: ANN401
        return getattr(import_module(f".{module}", __name__), function)(*args)

    return load


FETCHED: dict[str, Fetched] = {}
