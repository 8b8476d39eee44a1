"""Files that are never seen half written, and folders that can be written to."""

import os
import tempfile
from pathlib import Path


def check_writable(out: Path) -> None:
    """Refuse an output folder that cannot be written, leaving nothing behind.

    Raises:
        ValueError: it or its nearest existing parent is no folder or not writable.
    """
    nearest = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise ValueError(f"the output folder {out} cannot be written: {error.strerror} ({nearest})") from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is never seen half done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
