"""A run as terminal, page, W&B, tables and kept findings read it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..metrics import Metric, metrics
from ..reading import inside
from ..study.config import Primary, is_quality
from ..tasks import Task, task_of_file
from . import comparison, equal_cost, kept, pairing, quality, stored, summary, tables
from .comparison import BESIDE, Comparison, Scale, paired
from .equal_cost import EqualCost
from .folder import CONFIG, RunFolder
from .row import Row, by_cell, newest
from .summary import Line

Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Run:
    """The rows of a run and everything that is computed from them or was stored with them, each computed or read once.

    Sets, costs, maps and speed are read at first use. Whatever a run does not have is empty.

    Args:
        folder: a run folder, or a kept finding, which has no images, maps or speed.
        config: study, command, git commit and versions.
        rows: the newest row of every cell, prompt and seed. A run folder's are in the order of the study's prompts, a finding's
            in the order in which they were kept: the resamples of a bootstrap, and so the digits of an interval, depend on it.
    """

    folder: Path
    config: dict[str, Any]
    rows: list[Row]

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Read a run folder or a kept finding.

        Raises:
            ValueError: it is neither, or its configuration or a row of it is not what a run writes.
        """
        files = RunFolder(folder)
        config = files.config()
        stored.check_config(config, files.path / CONFIG)
        if kept.is_kept(folder):
            return cls(folder, config, kept.read_rows(folder))
        return cls(folder, config, _ordered(newest(files.rows().values()), config["study"]["prompts"]))

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.absolute().name

    @property
    def study(self) -> dict[str, Any]:
        """The study, as plain data."""
        return self.config["study"]

    @property
    def noun(self) -> str:
        """What its files are, such as "image"."""
        return self.task.noun

    @property
    def task(self) -> Task:
        """What made its files, and judges them."""
        return task_of_file(self.rows[0].image if self.rows else "")

    @property
    def primary(self) -> Primary | None:
        """The metric that was named before the run."""
        return Primary(**self.study["primary"]) if self.study.get("primary") else None

    @cached_property
    def jobs(self) -> dict[str, Row]:
        """Rows by job."""
        return {row.job: row for row in self.rows}

    @cached_property
    def cells(self) -> dict[str, list[Row]]:
        """Rows by cell, the bases first."""
        return by_cell(sorted(self.rows, key=lambda row: row.role != "base"))

    @cached_property
    def lines(self) -> dict[str, Line]:
        """The means of every cell, by cell.

        Raises:
            ValueError: different networks computed one metric.
        """
        return {line.cell: line for line in summary.summarize(self.rows, tables.per_image(self.study["metrics"]))}

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Every cell against its control by the primary metric; empty without a primary metric or a control."""
        if self.primary is None:
            return []
        return comparison.compare(self.rows, self.scale(self.primary.metric, self.primary.better, self.primary.margin))

    @cached_property
    def beside(self) -> dict[str, Comparison]:
        """By cell, the same comparisons by PSNR; empty if it was not measured or is the primary metric."""
        if self.primary is None or BESIDE == self.primary.metric or BESIDE not in self.metrics:
            return {}
        return {one.cell: one for one in comparison.compare(self.rows, self.scale(BESIDE, "higher")) if one.prompts}

    @cached_property
    def at_equal_cost(self) -> list[EqualCost]:
        """Every family of cells against its control's at one cost; empty without a primary metric, or if no cost was measured."""
        return [] if self.primary is None else equal_cost.at_equal_cost(self.cells, self.shares, self.primary)

    @cached_property
    def qualities(self) -> list[list[Comparison]]:
        """For every metric of quality, each cell against its base and its control; KID only where rows have features."""
        measured = {*self.metrics, *(["kid"] if any(row.features for row in self.rows) else [])}
        names = [name for name in self.study["metrics"] if is_quality(name) and name in measured]
        bases = {cell: base for cell in self.cells if (base := self.base_of(cell)) is not None}
        compared = [quality.quality(self.cells, bases, self.scale(name, metrics()[name].better)) for name in names]
        return [comparisons for comparisons in compared if comparisons]

    def quality_of(self, metric: str, cell: str, against: str) -> Comparison | None:
        """One comparison of :attr:`qualities`, not corrected for the number of cells; None if the rows do not have it."""
        has = metric in self.study["metrics"] and (metric in self.metrics or any(row.features for row in self.rows))
        found = paired(self.cells, [(cell, against)], self.scale(metric, metrics()[metric].better)) if has else []
        return next(iter(found), None)

    @property
    def differing(self) -> dict[str, list[str]]:
        """By cell, what differs from its control besides the swept values; empty for runs that did not record it."""
        return {cell: record["differing"] for cell, record in self.config.get("traits", {}).items()}

    def scale(self, metric: str, better: str, margin: float | None = None) -> Scale:
        """How cells are compared on a metric; for KID, with the features of the study's real images."""
        return Scale(metric, better, margin, self._real if metric == "kid" else None)

    @cached_property
    def _real(self) -> Any:  # noqa: ANN401
        """(m, 256) projected features of the real images; None if they are not here."""
        from ..metrics.projection import project
        from ..metrics.reference import features

        try:
            return project(features("kid", self.study["model"], self.study.get("reference")))
        except ValueError:
            return None

    @cached_property
    def marks(self) -> dict[str, str]:
        """A short mark for every cell: B for the base, 1, 2, 3 for the others."""
        bases = [cell for cell, rows in self.cells.items() if rows[0].role == "base"]
        marks = {cell: f"B{i}" if len(bases) > 1 else "B" for i, cell in enumerate(bases, 1)}
        return marks | {cell: str(i) for i, cell in enumerate((cell for cell in self.cells if cell not in marks), 1)}

    @property
    def merged(self) -> list[str]:
        """Cells that are not bases."""
        return [cell for cell, mark in self.marks.items() if not mark.startswith("B")]

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The metrics that some image was measured by."""
        measured = {name for row in self.rows for name in row.metrics}
        return {name: metrics()[name] for name in self.study["metrics"] if name in measured}

    @cached_property
    def set_metrics(self) -> dict[str, Metric]:
        """The metrics that the images of some cell were measured by as a set."""
        measured = dict.fromkeys(name for values in self.sets.values() for name in values)
        return {name: metrics()[name] for name in measured}

    @cached_property
    def costs(self) -> dict[str, dict[str, Any]]:
        """Costs by cell."""
        return stored.costs(self.folder)

    @cached_property
    def shares(self) -> dict[str, float]:
        """By cell, the cost of a denoising step as a share of the base's, where it is known."""
        return {cell: cost["share"] for cell, cost in self.costs.items() if cost.get("share") is not None}

    @cached_property
    def large(self) -> str:
        """The model that the shares are of; runs that do not say so were measured when there was but one."""
        return next((cost["like"] for cost in self.costs.values() if "like" in cost), "SD 1.5 at 1024 pixels")

    @cached_property
    def sets(self) -> dict[str, dict[str, Any]]:
        """Values of whole sets of images by cell, then by metric."""
        return stored.sets(self.folder)

    @cached_property
    def maps(self) -> dict[str, dict[str, Any]]:
        """What was merged where in the first image of every cell that has it."""
        names = {row.cell: name for row in reversed(self.rows) if inside(self.folder, name := f"maps/{row.job}.json").exists()}
        return {cell: stored.maps(self.folder, names[cell]) for cell in self.cells if cell in names}

    @cached_property
    def speed(self) -> list[dict[str, str]]:
        """Times of one transformer block, a line for every variant."""
        return stored.speed(self.folder)

    def interval(self, cell: str, metric: str) -> Interval:
        """Mean and 95% interval over the prompts of a cell; NaN if nothing was measured."""
        if (cell, metric) not in self._intervals:
            self._intervals[cell, metric] = pairing.interval(self.cells[cell], metric)
        return self._intervals[cell, metric]

    def set_value(self, cell: str, metric: str) -> dict[str, Any] | None:
        """What a set metric says of a cell's images, if it was measured."""
        return self.sets.get(cell, {}).get(metric)

    def base_of(self, cell: str) -> str | None:
        """The base that a cell's images are compared with."""
        base = self.jobs.get(self.cells[cell][0].base)
        return None if base is None else base.cell

    @cached_property
    def _intervals(self) -> dict[tuple[str, str], Interval]:
        return {}


def _ordered(rows: Iterable[Row], prompts: Sequence[str]) -> list[Row]:
    """In the order of prompts and seeds, however many processes wrote them."""
    place = {prompt: i for i, prompt in enumerate(prompts)}
    return sorted(rows, key=lambda row: (place.get(row.prompt, len(place)), row.seed))
