"""The source text of a part and of the parts inside it: together with the settings, it decides the plans."""

import dataclasses
import hashlib
import inspect
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path

from .registry import KINDS


def sources(part: object) -> Iterator[str]:
    """The source files of a part's classes, up to its kind, and of those of the parts inside it; nothing for other values."""
    if not dataclasses.is_dataclass(part):
        return
    for cls in takewhile(lambda c: c not in KINDS.values(), type(part).__mro__):
        yield _source(cls)
    for field in dataclasses.fields(part):
        yield from sources(getattr(part, field.name))


@cache
def library() -> str:
    """Hash of this library's sources: windows, plans and hooks decide what is merged as much as a strategy does."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@cache
def _source(cls: type) -> str:
    for holder in (inspect.getmodule(cls), cls):
        try:
            return inspect.getsource(holder) if holder is not None else ""
        except (OSError, TypeError):  # a class of a notebook has no file
            continue
    return ""
