"""Downloads a pinned package with the tool of its index. Nothing of it is installed, unpacked or run."""

import shutil
import subprocess
import sys
from pathlib import Path

from .pin import NPM, Pin, digest

MOST = 512 << 20
"""No package and no file may be larger than this, in bytes."""


def download(pin: Pin, folder: Path) -> Path:
    """The package of a pin, its bytes checked, from the index that pip or npm is configured for.

    Args:
        pin: names the package.
        folder: an empty one.

    Raises:
        ValueError: the tool is missing, cannot bring the package, or brings another one.
    """
    command, what = _npm(pin) if pin.tool == NPM else _pip(pin, folder)
    asked = f"expected {pin.tool} to download {what}"
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ValueError(f"{asked}, got: {error.strerror}: {command[0]}") from None
    files = [path for path in folder.iterdir() if path.suffix in (".whl", ".tgz")]
    if done.returncode or len(files) != 1:
        raise ValueError(f"{asked}, got: {_reason(done.stderr)}")
    if files[0].stat().st_size > MOST or digest(files[0]) != pin.archive:
        raise ValueError(f"expected {what} as it was pinned, got a package with other bytes; nothing of it was read")
    return files[0]


def _pip(pin: Pin, folder: Path) -> tuple[list[str], str]:
    """Only wheels are asked for: to look at a source archive, pip would run its setup."""
    what = f"{pin.package}=={pin.version}"
    words = ["download", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    return [sys.executable, "-m", "pip", *words, what], what


def _npm(pin: Pin) -> tuple[list[str], str]:
    """``npm pack`` saves the tarball in the working folder; scripts are off, though it runs none of a package from an index."""
    what = f"{pin.package}@{pin.version}"
    return [shutil.which("npm") or "npm", "pack", "--ignore-scripts", "--loglevel", "error", what], what


def _reason(stderr: str) -> str:
    """What a tool says went wrong: its last line, unless that only tells where its log is."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and " A complete log " not in f" {line} "]
    return lines[-1][:200] if lines else "nothing"
