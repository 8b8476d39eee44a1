"""The run folder: what was asked (config.yaml), what came out (results, images, maps), and who may write."""

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

CONFIG = "config.yaml"
OWN = (
    *("summary.csv", "speed.csv", "sets.json", "costs.json", "verdicts.csv", "report.html", "sheet.png", "tables.md"),
    *("results", "images", "maps", "wandb", CONFIG),
)
"""What a run writes; the config, which tells whose folder it is, goes last when all is deleted."""
IGNORED = ("out", "threads", "speed", "costs", "devices", "num_nodes", "wandb")
"""Keys of a study that may differ between two runs into one folder: they change no picture and no column."""


@dataclass(frozen=True)
class RunFolder:
    """A run's files. Rows of results are the only source of truth.

    Args:
        path: the folder.
        rank: number of this process, which writes its rows to a file of its own.
    """

    path: Path
    rank: int = 0

    @property
    def results(self) -> Path:
        """The rows of this process."""
        return self.path / "results" / f"rank{self.rank}.jsonl"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer.

        Raises:
            ValueError: another process writes here.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as file:
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
        """Refuse a folder whose files a run would overwrite though no run made them.

        Raises:
            ValueError: there are files of a run's names, but no config.yaml of a run.
        """
        foreign = [name for name in OWN if (self.path / name).exists()]
        if foreign and CONFIG not in foreign:
            raise ValueError(f"{self.path} is no run folder but has {', '.join(foreign)}; give another out=FOLDER")
        if foreign:
            self.config()

    def check_config(self, study: Mapping[str, Any]) -> None:
        """Refuse a folder that holds another study's run.

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
        """What config.yaml says.

        Raises:
            ValueError: there is none, or it cannot be read.
        """
        path = self.path / CONFIG
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError:
            raise ValueError(f"{self.path} is not a run folder: it has no config.yaml") from None
        except yaml.YAMLError:
            config = None
        if not isinstance(config, dict) or "study" not in config:
            raise ValueError(f"{path} is corrupt")
        return config

    def gates(self) -> dict[str, Any]:
        """The decisions of gates that this run wrote down, by cell."""
        return self.config().get("gates", {}) if (self.path / CONFIG).exists() else {}

    def write_config(self, study: Mapping[str, Any], command: list[str], gates: Mapping[str, Any] | None = None) -> None:
        """Write down what makes this run again."""
        config = {
            "study": json.loads(json.dumps(study)),
            "command": shlex.join(["mergekit-diff", *command]),
            "git": provenance.git_commit(),
            "versions": provenance.versions(),
            **({"gates": json.loads(json.dumps(gates))} if gates else {}),
        }
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        write_atomically(self.path / CONFIG, text.encode())

    def rows(self) -> dict[str, dict[str, Any]]:
        """The rows of all finished jobs whose picture is there, by job id."""
        rows: dict[str, dict[str, Any]] = {}
        for file in sorted((self.path / "results").glob("rank*.jsonl")):
            for number, line in enumerate(file.read_bytes().splitlines(keepends=True), 1):
                if line.endswith(b"\n"):  # a line without an end is one that a crash cut off
                    row = _row(line, f"{file}: line {number}")
                    rows[row["job"]] = row
        return {job: row for job, row in rows.items() if (self.path / row["image"]).is_file()}

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row for good: one whole line that is on the disk when this returns, or nothing.

        Raises:
            OSError: it could not be written.
        """
        self.results.parent.mkdir(parents=True, exist_ok=True)
        with self.results.open("ab", buffering=0) as file:
            end = file.tell()
            try:
                line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.results))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)  # half a line would spoil the next row
                raise

    def tidy(self, wanted: Iterable[str]) -> None:
        """Leave one whole row of every wanted job whose picture is there, in one file.

        What a crash cut off goes, and what older code or other weights made. Sets, costs and times of the rows that went go too.
        """
        rows, files = self.rows(), sorted((self.path / "results").glob("rank*.jsonl"))
        kept = [rows[job] for job in wanted if job in rows]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept).encode()
        if not files or (files == [self.results] and files[0].read_bytes() == lines):
            return
        write_atomically(self.results, lines)
        for file in files:
            if file != self.results:
                file.unlink()
        if len(kept) < len(rows):
            for name in ("sets.json", "costs.json", "speed.csv"):
                (self.path / name).unlink(missing_ok=True)


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if not (row["job"] and row["image"]):
            raise ValueError
        return row
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{where} is not a row; delete that line, and its picture is made again") from None


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401
    if not isinstance(value, dict) or not value:
        return {prefix.removesuffix("."): value}
    return {key: leaf for name, part in value.items() for key, leaf in _flat(part, f"{prefix}{name}.").items()}
