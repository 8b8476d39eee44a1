"""The part of a run that is kept for good: its rows without the images, enough to compute every verdict again."""

import gzip
import io
import shlex
import zlib
from collections.abc import Sequence
from pathlib import Path

import yaml

from ..files import write_atomically
from ..reading import inside, numbered, read_bytes
from .folder import CONFIG, RunFolder
from .row import Row

ROWS = "rows.jsonl.gz"
COPIED = ("sets.json", "costs.json")


def keep(folder: Path, rows: Sequence[Row], into: Path) -> Path:
    """Copy the configuration, sets and costs of a run, and write its rows; returns the new folder, which has the run's name.

    Args:
        folder: of the run.
        rows: its rows, at least one.
        into: parent of the new folder.
    """
    target = into / folder.absolute().name
    if (folder / CONFIG).is_file():
        write_atomically(target / CONFIG, _portable(folder, f"runs/{target.name}"))
    for name in COPIED:
        if (folder / name).is_file():
            write_atomically(target / name, (folder / name).read_bytes())
    write_atomically(target / ROWS, gzip.compress(b"".join(row.line() for row in rows), mtime=0))
    return target


def _portable(folder: Path, place: str) -> bytes:
    """The configuration of a run, with another place for its folder where that is an absolute path of one machine."""
    config = RunFolder(folder).config()
    own = str(config["study"].get("out", ""))
    if not Path(own).is_absolute():
        return (folder / CONFIG).read_bytes()
    words = [f"out={place}" if word == f"out={own}" else word for word in shlex.split(config.get("command", ""))]
    moved = config | {"study": config["study"] | {"out": place}, "command": shlex.join(words)}
    return yaml.safe_dump(moved, sort_keys=False, allow_unicode=True).encode()


def is_kept(folder: Path) -> bool:
    """Whether a folder is one that :func:`keep` wrote."""
    return (folder / ROWS).is_file()


def read_rows(folder: Path) -> list[Row]:
    """The rows that were kept.

    Raises:
        ValueError: the file is cut off or too large, or a line is not a row; names file and line.
    """
    path = inside(folder, ROWS)
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(read_bytes(path))) as file:
            return [Row.parse(line, f"{path}: line {number}") for number, line in numbered(file, path)]
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"expected lines compressed by gzip in {path}, got: {error}") from None
