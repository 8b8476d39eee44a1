"""The run folder: the question (config.yaml), the results (rows, images, maps), and who may write."""

import contextlib
import errno
import fcntl
import json
import os
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .. import provenance
from ..files import write_atomically
from ..reading import MOST_YAML, inside, parse_yaml, read_lines, read_text
from .images import is_whole
from .row import Row

CONFIG = "config.yaml"
OWN = (
    *("summary.csv", "speed.csv", "sets.json", "costs.json", "verdicts.csv", "report.html", "sheet.png", "tables.md"),
    *("results", "images", "maps", "wandb", CONFIG),
)
"""What a run writes. The config comes last: it marks the folder as a run's until everything else is deleted."""
IGNORED = ("out", "threads", "speed", "costs", "devices", "num_nodes", "wandb")
"""Keys of a study that may differ between two runs into one folder: they change no image and no column."""


@dataclass(frozen=True)
class RunFolder:
    """The files of a run. Its rows are the only source of truth.

    Args:
        path: the folder.
        rank: number of this process, which writes its rows to a file of its own.
    """

    path: Path
    rank: int = 0

    @property
    def results(self) -> Path:
        """The file for the rows of this process."""
        return self.path / "results" / f"rank{self.rank}.jsonl"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer.

        Raises:
            ValueError: another process is writing here.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"another run is writing to {self.path}") from None
            yield

    def clear(self) -> None:
        """Delete what an earlier run left, and nothing else."""
        for name in OWN:
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def check_own(self) -> None:
        """Refuse a folder with files that a run would overwrite but that no run wrote.

        Raises:
            ValueError: there are files with a run's names, but no config.yaml of a run.
        """
        present = [name for name in OWN if (self.path / name).exists()]
        if present and CONFIG not in present:
            raise ValueError(f"{self.path} is not a run folder, but contains {', '.join(present)}; give another out=FOLDER")
        if present:
            self.config()

    def check_config(self, study: Mapping[str, Any]) -> None:
        """Refuse a folder that holds the run of another study.

        Raises:
            ValueError: names the first key that differs.
        """
        path = self.path / CONFIG
        if not path.exists():
            return
        old = _flat(self.config()["study"])
        new = _flat(json.loads(json.dumps(study)))
        for key in [*new, *old]:
            if key.split(".")[0] not in IGNORED and old.get(key) != new.get(key):
                raise ValueError(
                    f"{self.path} holds another run: {key} is {old.get(key)!r} there and {new.get(key)!r} here;"
                    " give another out=FOLDER, or --fresh to start over"
                )

    def config(self) -> dict[str, Any]:
        """The contents of config.yaml.

        Raises:
            ValueError: there is none, or it cannot be read.
        """
        path = self.path / CONFIG
        try:
            config = parse_yaml(read_text(inside(self.path, CONFIG), MOST_YAML), str(path))
        except OSError:
            found = "a folder without config.yaml" if self.path.is_dir() else "nothing there"
            raise ValueError(f"expected a run folder or a kept finding in {self.path}, got {found}") from None
        if not isinstance(config, dict) or not isinstance(config.get("study"), dict):
            raise ValueError(f"expected YAML with a 'study' in {path}, got something else")
        return config

    def gates(self) -> dict[str, Any]:
        """The gate decisions that this run recorded, by cell."""
        return self.config().get("gates", {}) if (self.path / CONFIG).exists() else {}

    def write_config(
        self,
        study: Mapping[str, Any],
        command: list[str],
        gates: Mapping[str, Any] | None = None,
        traits: Mapping[str, Any] | None = None,
    ) -> None:
        """Record everything that is needed to repeat this run.

        Args:
            study: its record.
            command: the words that run it again.
            gates: decisions by cell.
            traits: by cell, what a comparison with its control depends on, see :func:`.study.traits.records`.
        """
        config = {
            "study": json.loads(json.dumps(study)),
            "command": shlex.join(["mergekit-diff", *command]),
            "git": provenance.git_commit(),
            "versions": provenance.versions(),
            **({"gates": json.loads(json.dumps(gates))} if gates else {}),
            **({"traits": json.loads(json.dumps(traits))} if traits else {}),
        }
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        write_atomically(self.path / CONFIG, text.encode())

    def rows(self) -> dict[str, Row]:
        """The rows of all jobs whose image exists, by job.

        Raises:
            ValueError: a line is not a row, or names a file elsewhere; names file and line.
        """
        return {job: row for job, row in self._written().items() if inside(self.path, row.image).is_file()}

    def without_image(self) -> list[Row]:
        """The rows whose image was deleted, which :meth:`rows` leaves out.

        Raises:
            ValueError: as :meth:`rows`.
        """
        return [row for row in self._written().values() if not inside(self.path, row.image).is_file()]

    def done(self) -> dict[str, Row]:
        """The rows of all jobs whose image can be decoded, by job. A resumed run generates all others."""
        return {job: row for job, row in self.rows().items() if is_whole(self.path / row.image)}

    def append(self, row: Row) -> None:
        """Add a row for good: one whole line that is on the disk when this returns, or nothing.

        Raises:
            OSError: it could not be written; names the file.
        """
        self.results.parent.mkdir(parents=True, exist_ok=True)
        with self.results.open("ab", buffering=0) as file:
            end = file.tell()
            try:
                line = row.line()
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.results))
                os.fsync(file.fileno())
            except OSError as error:
                file.truncate(end)  # half a line would spoil the next row
                error.filename = error.filename or str(self.results)
                raise

    def tidy(self, wanted: Iterable[str]) -> dict[str, Row]:
        """Leave one row of every wanted job that is done, all in one file; returns them by job.

        Removes lines that a crash cut off, rows of broken images, and rows of older code or other weights. If a row goes, the
        sets, costs and times that it was part of go too.
        """
        rows, files = self.done(), self._files()
        kept = {job: rows[job] for job in wanted if job in rows}
        lines = b"".join(row.line() for row in kept.values())
        if not files or (files == [self.results] and self.results.read_bytes() == lines):
            return kept
        write_atomically(self.results, lines)
        for file in files:
            if file != self.results:
                file.unlink()
        if len(kept) < len(rows):
            for name in ("sets.json", "costs.json", "speed.csv"):
                (self.path / name).unlink(missing_ok=True)
        return kept

    def _written(self) -> dict[str, Row]:
        """The last row of every job."""
        rows: dict[str, Row] = {}
        for file in self._files():
            for number, line in read_lines(file):
                if line.endswith(b"\n"):  # a crash can leave a last line that is cut off
                    row = _row(line, f"{file}: line {number}")
                    rows[row.job] = row
        return rows

    def _files(self) -> list[Path]:
        found = sorted((self.path / "results").glob("rank*.jsonl"))
        return [inside(self.path, f"results/{file.name}") for file in found]


def _row(line: bytes, where: str) -> Row:
    try:
        return Row.parse(line, where)
    except ValueError as error:
        raise ValueError(f"{error}; delete that line, and the run generates its image again") from None


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401
    if not isinstance(value, dict) or not value:
        return {prefix.removesuffix("."): value}
    return {key: leaf for name, part in value.items() for key, leaf in _flat(part, f"{prefix}{name}.").items()}
