"""Pastes the tables of a run into a text such as README, so that nobody types a number there."""

import re
from pathlib import Path

from ..files import write_atomically


def paste_tables(folder: Path, text: Path) -> Path:
    """Replace everything between the markers of a run by its ``tables.md``; returns the text's path.

    The markers are ``<!-- tables of NAME -->`` and ``<!-- end -->`` on lines of their own, where NAME is that of the run folder.

    Raises:
        ValueError: the run has no tables, or the text has no such markers.
    """
    tables, name = folder / "tables.md", folder.absolute().name
    if not tables.is_file():
        raise ValueError(f"expected a finished run in {folder}, got one without tables.md")
    return paste(f"tables of {name}", tables.read_text(encoding="utf-8"), text)


def paste(name: str, content: str, text: Path) -> Path:
    """Replace everything between the lines ``<!-- NAME -->`` and ``<!-- end -->`` of a text; returns its path.

    Raises:
        ValueError: the text has no such lines.
    """
    if not text.is_file():
        raise ValueError(f"expected a text file, got {text}")
    begin, end = f"<!-- {name} -->", "<!-- end -->"
    place = re.compile(rf"(?<={re.escape(begin)}\n).*?(?={re.escape(end)})", re.DOTALL)
    old = text.read_text(encoding="utf-8")
    new, count = place.subn(lambda _: f"\n{content.strip()}\n\n", old, count=1)  # or an empty place matches twice
    if not count:
        raise ValueError(f"expected the lines {begin!r} and {end!r} in {text}, got none")
    write_atomically(text, new.encode())
    return text
