"""What W&B is told about one cell: its settings, its values by picture and by step, its pictures, its means."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import zip_longest
from typing import Any

from PIL import Image

from mergekit_diff import make
from mergekit_diff.registry import Part

from ..report.merge_map import draw_map
from ..results import summary
from ..results.folder import RunFolder
from ..study.loading import put
from ..tasks import PICTURE

Row = dict[str, Any]
PROMPTS = 8
SIDE = 256
BY_STEP = ("drift", "kept", "stale")


@dataclass(frozen=True)
class TrackedCell:
    """A cell, or the base, of a run folder.

    Args:
        folder: the run.
        rows: of this cell, one a picture.
        metrics: names of the study's metrics.
    """

    folder: RunFolder
    rows: list[Row]
    metrics: list[str]

    def config(self, study: Mapping[str, Any]) -> dict[str, Any]:
        """The study with the cell's values in, every setting of the strategy, and where all this came from."""
        row, config = self.rows[0], {key: value for key, value in study.items() if key not in ("sweep", "control")}
        for key, value in row.get("values", {}).items():
            config = put(config, key, value)
        config["strategy"] = None if row["role"] == "base" else _settings(make("strategy", config["strategy"]))
        config["merging"] = row["merging"]
        origin = {key: value for key, value in self.folder.config().items() if key != "study"}
        return {**config, "cell": row["cell"], "against": row.get("against"), "repr": row["strategy"], **origin}

    def log(self, run: Any) -> None:  # noqa: ANN401
        """Everything that has a history, into an open W&B run."""
        self._log_pictures(run)
        self._log_steps(run)
        self._log_images(run)

    def summary(self) -> dict[str, Any]:
        """Means over the pictures, and the cell's part of what the folder says about sets and costs."""
        (line,) = summary.summarize(self.rows, self.metrics)
        found = {key: value for key, value in line.items() if value is not None and key not in ("cell", "strategy", "role")}
        sets, costs = self._part_of("sets.json"), self._part_of("costs.json")
        found |= {name: values["value"] for name, values in sets.items()}  # where a W&B sweep looks for its metric
        return found | {key: value for key, value in (("sets", sets), ("costs", costs)) if value}

    def _log_pictures(self, run: Any) -> None:  # noqa: ANN401
        """A point a picture and metric, and the rows as a table."""
        import wandb

        names = [name for name in (*self.metrics, "seconds") if any(row.get(name) is not None for row in self.rows)]
        rows = [row | {name: float(row[name]) for name in names if row.get(name) is not None} for row in self.rows]
        run.define_metric("picture", hidden=True)
        for name in names:
            run.define_metric(name, step_metric="picture")
        for number, row in enumerate(rows):
            run.log({"picture": number, **{name: row[name] for name in names if row.get(name) is not None}})
        columns: list[Any] = [key for key, value in rows[0].items() if not isinstance(value, list | dict)]
        table = wandb.Table(columns, [[row.get(key) for key in columns] for row in rows], allow_mixed_types=True)
        run.log({"rows": table})

    def _log_steps(self, run: Any) -> None:  # noqa: ANN401
        """Over the denoising steps: means over the pictures, and the tokens that each site kept of the first picture."""
        lines = {f"steps/{name}": _mean_by_step([row[name] for row in self.rows if name in row]) for name in BY_STEP}
        for site in self._first_map.get("sites", []):
            kept = {int(step): tokens for step, (_, tokens) in site.get("by_step", {}).items()}
            lines[f"tokens/{site['site']}/{site['role']}"] = [kept.get(step) for step in range(max(kept, default=-1) + 1)]
        run.define_metric("step", hidden=True)
        for section in ("steps/*", "tokens/*"):
            run.define_metric(section, step_metric="step")
        for step, values in enumerate(zip_longest(*lines.values())):
            run.log({"step": step, **{name: value for name, value in zip(lines, values, strict=True) if value is not None}})

    def _log_images(self, run: Any) -> None:  # noqa: ANN401
        """The base beside the cell, a picture a prompt, and which tokens were merged in the first picture."""
        import wandb

        firsts = [row for i, row in enumerate(self.rows) if row["prompt"] not in [r["prompt"] for r in self.rows[:i]]][:PROMPTS]
        pairs = [PICTURE.side_by_side(list(map(self._open, dict.fromkeys((row["base"], row["job"])))), SIDE) for row in firsts]
        run.log({"pictures": [wandb.Image(pair, caption=row["prompt"]) for pair, row in zip(pairs, firsts, strict=True)]})
        maps, job = self._first_map.get("maps", []), self._first_map.get("job", "")
        drawn = [wandb.Image(draw_map(self._open(job), one), caption=f"{one['site']} {one['role']}") for one in maps]
        if drawn:
            run.log({"merge_map": drawn})

    @cached_property
    def _first_map(self) -> Row:
        """What ``maps/`` has of this cell; empty for a base."""
        files = [self.folder.path / "maps" / f"{row['job']}.json" for row in self.rows]
        return next((json.loads(file.read_text()) for file in files if file.exists()), {})

    def _part_of(self, name: str) -> dict[str, Any]:
        file = self.folder.path / name
        return json.loads(file.read_text()).get(self.rows[0]["cell"], {}) if file.exists() else {}

    def _open(self, job: str) -> Image.Image:
        return Image.open(self.folder.path / "images" / f"{job}.png")


def _settings(part: Any) -> Any:  # noqa: ANN401
    """A part as its YAML form, with every default."""
    if not isinstance(part, Part):
        return part
    return {"name": part.name, **{field.name: _settings(getattr(part, field.name)) for field in fields(part)}}


def _mean_by_step(lists: list[list[float | None]]) -> list[float | None]:
    return [summary.mean(values) for values in zip_longest(*lists)]
