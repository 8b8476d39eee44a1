"""The source text of a part and of the parts inside it: with its settings, all that decides its plans."""

import dataclasses
import inspect
from collections.abc import Iterator
from functools import cache


def sources(part: object) -> Iterator[str]:
    """The source files of a part's class and of those of the parts it is built of; nothing for what is no part."""
    if not dataclasses.is_dataclass(part):
        return
    yield _source(type(part))
    for field in dataclasses.fields(part):
        yield from sources(getattr(part, field.name))


@cache
def _source(cls: type) -> str:
    for holder in (inspect.getmodule(cls), cls):
        try:
            return inspect.getsource(holder) if holder is not None else ""
        except (OSError, TypeError):  # a class of a notebook has no file
            continue
    return ""
