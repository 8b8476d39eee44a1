"""Atomic writes, what to do where the disk refuses one, and a check that a folder can be written to."""

import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space"),
    errno.EROFS: "make that disk writable",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "allow access to it"),
}
"""By error, what helps. The next write meets the same error, so a run ends at the first."""


def with_remedy(error: OSError) -> str:
    """What went wrong, with which file, and what to do."""
    what = f"{error.strerror}: {error.filename}" if error.strerror and error.filename else str(error.strerror or error)
    remedy = REMEDIES.get(error.errno or 0)
    return what if remedy is None else f"{what}; {remedy}, and run the same command again"


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
