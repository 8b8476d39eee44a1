"""Puts the tables of a run into a text such as README, so that no number there is typed."""

import re
from pathlib import Path

from ..files import write_atomically
from .folder import RunFolder


def paste_tables(folder: RunFolder, text: Path) -> Path:
    """Replace what stands between the markers of a run by its ``tables.md``; returns the text's path.

    The markers are ``<!-- tables of NAME -->`` and ``<!-- end -->`` on lines of their own, NAME that of the run folder.

    Raises:
        ValueError: the run has no tables, or the text no such markers.
    """
    tables, name = folder.path / "tables.md", folder.path.absolute().name
    if not tables.is_file():
        raise ValueError(f"{folder.path} has no tables.md: it is no finished run")
    if not text.is_file():
        raise ValueError(f"{text} is no file")
    begin, end = f"<!-- tables of {name} -->", "<!-- end -->"
    place = re.compile(rf"(?<={re.escape(begin)}\n).*?(?={re.escape(end)})", re.DOTALL)
    old = text.read_text(encoding="utf-8")
    new, count = place.subn(lambda _: f"\n{tables.read_text(encoding='utf-8').strip()}\n\n", old)
    if not count:
        raise ValueError(f"{text} has no lines {begin!r} and {end!r}")
    write_atomically(text, new.encode())
    return text
