"""What a run folder holds, read once for the page. Whatever a run may leave out is empty here."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..metrics import Metric, metrics
from ..study.config import Primary
from . import comparison, summary, tables
from .folder import RunFolder

Row = dict[str, Any]
Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Contents:
    """The rows of a run and what lies beside them.

    Args:
        folder: the run's.
        config: study, command, git commit and versions.
        rows: the newest row of every cell, prompt and seed.
        lines: their means, a line a cell.
    """

    folder: RunFolder
    config: dict[str, Any]
    rows: list[Row]
    lines: list[Row]

    @classmethod
    def read(cls, folder: RunFolder) -> "Contents":
        """Read a run folder.

        Raises:
            ValueError: it is no run folder, has no picture yet, or its numbers cannot be averaged.
        """
        config = folder.config()
        rows = summary.newest(folder.rows().values())
        if not rows:
            raise ValueError(f"{folder.path} has no finished picture to report")
        return cls(folder, config, rows, summary.summarize(rows, tables.per_picture(config["study"]["metrics"])))

    @property
    def study(self) -> dict[str, Any]:
        """The study as it was run."""
        return self.config["study"]

    @property
    def primary(self) -> Primary | None:
        """The metric that was named before the run."""
        return Primary(**self.study["primary"]) if self.study.get("primary") else None

    @cached_property
    def cells(self) -> dict[str, list[Row]]:
        """Rows by cell, the bases first."""
        return comparison.by_cell(sorted(self.rows, key=lambda row: row["role"] != "base"))

    @cached_property
    def marks(self) -> dict[str, str]:
        """A short mark for every cell, the same all over the page: B for the base, 1, 2, 3 for the others."""
        bases = [cell for cell, rows in self.cells.items() if rows[0]["role"] == "base"]
        marks = {cell: f"B{i}" if len(bases) > 1 else "B" for i, cell in enumerate(bases, 1)}
        return marks | {cell: str(i) for i, cell in enumerate((cell for cell in self.cells if cell not in marks), 1)}

    @property
    def merged(self) -> list[str]:
        """Cells that are not bases."""
        return [cell for cell, mark in self.marks.items() if not mark.startswith("B")]

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The metrics that some picture of the run was measured by."""
        asked = [name for name in self.study["metrics"] if any(row.get(name) is not None for row in self.rows)]
        return {name: metrics()[name] for name in asked}

    @cached_property
    def set_metrics(self) -> dict[str, Metric]:
        """The metrics that some cell's pictures were measured by as a set."""
        asked = dict.fromkeys(name for values in self.sets.values() for name in values)
        return {name: metrics()[name] for name in asked}

    @cached_property
    def costs(self) -> dict[str, dict[str, Any]]:
        """Costs by cell."""
        return self._json("costs.json")

    @cached_property
    def sets(self) -> dict[str, dict[str, Any]]:
        """Values of whole sets of pictures, by cell."""
        return self._json("sets.json")

    @cached_property
    def maps(self) -> dict[str, Row]:
        """What was merged where, of the first picture of every cell."""
        files = {row["cell"]: self._maps_file(row) for row in reversed(self.rows) if self._maps_file(row).exists()}
        return {cell: json.loads(files[cell].read_text(encoding="utf-8")) for cell in self.cells if cell in files}

    @cached_property
    def _intervals(self) -> dict[tuple[str, str], Interval]:
        return {}

    def interval(self, cell: str, metric: str) -> Interval:
        """Mean and 95% interval over the prompts of a cell; not a number where nothing was measured."""
        if (cell, metric) not in self._intervals:
            self._intervals[cell, metric] = comparison.interval(self.cells[cell], metric)
        return self._intervals[cell, metric]

    def set_value(self, cell: str, metric: str) -> dict[str, Any] | None:
        """What a set metric says of a cell's pictures, if it was measured."""
        return self.sets.get(cell, {}).get(metric)

    def base_of(self, cell: str) -> str | None:
        """The base that a cell's pictures are compared with."""
        return self._cell_of_job.get(self.cells[cell][0].get("base", ""))

    @cached_property
    def _cell_of_job(self) -> dict[str, str]:
        return {row["job"]: row["cell"] for row in self.rows}

    def _maps_file(self, row: Row) -> Path:
        return self.folder.path / "maps" / f"{row['job']}.json"

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder.path / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
