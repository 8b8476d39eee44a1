"""Atomic writes, and a check that a folder can be written to."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path


def check_writable(out: Path) -> None:
    """Refuse an output folder that cannot be written to; creates nothing.

    Raises:
        ValueError: it, or its nearest existing parent, is not a folder or not writable.
    """
    nearest = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise ValueError(f"out: expected a folder that can be written to, got {out}: {error.strerror} ({nearest})") from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that no reader ever sees half of it.

    Raises:
        OSError: it could not be written; names the file, which errors of a full disk do not.
    """
    write_parts(path, [data])


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """The same for a file that comes in parts; if one of them raises, nothing is written.

    Raises:
        OSError: as :func:`write_atomically`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.unlink(missing_ok=True)  # a link of that name would lead the data elsewhere
        with temporary.open("xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise
