"""What W&B gets of one cell: its settings, its values by image and by step, its images or videos, its means."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import zip_longest
from typing import Any

from PIL import Image

from mergekit_diff import make
from mergekit_diff.registry import Part

from ..report.images import map_strip
from ..results import summary
from ..results.images import open_frames
from ..results.row import Row
from ..results.run import Run
from ..study.loading import put
from ..tasks.frames import MILLISECONDS, side_by_side

PROMPTS = 8
SIDE = 256
BY_STEP = ("drift", "kept", "stale")


@dataclass(frozen=True)
class CellLog:
    """A cell, or the base, of a run.

    Args:
        run: the run.
        cell: name of the cell.
    """

    run: Run
    cell: str

    @property
    def rows(self) -> list[Row]:
        """The rows of this cell, one for every image."""
        return self.run.cells[self.cell]

    def config(self) -> dict[str, Any]:
        """The study with this cell's values in it, every setting of the strategy, commit and versions."""
        row, config = self.rows[0], {key: value for key, value in self.run.study.items() if key not in ("sweep", "control")}
        for key, value in row.values.items():
            config = put(config, key, value)
        config["strategy"] = None if row.role == "base" else _settings(make("strategy", config["strategy"]))
        config["merging"] = row.merging
        origin = {key: value for key, value in self.run.config.items() if key != "study"}
        return _inert({**config, "cell": row.cell, "against": row.against, "repr": row.strategy, **origin})

    def history(self, wandb_run: Any) -> None:  # noqa: ANN401
        """Log everything that is a series, into an open W&B run."""
        self._log_values(wandb_run)
        self._log_steps(wandb_run)
        self._log_images(wandb_run)

    def summary(self) -> dict[str, Any]:
        """Means over the images, and this cell's sets and costs."""
        line = self.run.lines[self.cell]
        means = {key: value for key, value in line.numbers().items() if key not in ("cell", "strategy", "role")}
        sets, costs = self.run.sets.get(self.cell, {}), self.run.costs.get(self.cell, {})
        means |= {name: values["value"] for name, values in sets.items()}  # where a W&B sweep looks for its metric
        means |= {"notes": line.notes, "sets": sets or None, "costs": costs or None}
        return {key: value for key, value in means.items() if value is not None}

    def _log_values(self, wandb_run: Any) -> None:  # noqa: ANN401
        """A point for every image and metric, and the rows as a table."""
        import wandb

        series = [{**row.metrics, "seconds": row.seconds} for row in self.rows]
        names = [name for name in (*self.run.metrics, "seconds") if any(name in values for values in series)]
        wandb_run.define_metric("image", hidden=True)
        for name in names:
            wandb_run.define_metric(name, step_metric="image")
        for number, values in enumerate(series):
            wandb_run.log({"image": number, **{name: values[name] for name in names if name in values}})
        table = [row.to_json() | values for row, values in zip(self.rows, series, strict=True)]
        columns: list[Any] = [key for key, value in table[0].items() if not isinstance(value, list | dict)]
        data: list[Any] = [[line.get(key) for key in columns] for line in table]
        wandb_run.log({"rows": wandb.Table(columns, data, allow_mixed_types=True)})

    def _log_steps(self, wandb_run: Any) -> None:  # noqa: ANN401
        """Over the denoising steps: means over the images, and the tokens that each site kept in the first image."""
        lists = {name: [values for row in self.rows if (values := getattr(row, name))] for name in BY_STEP}
        lines = {f"steps/{name}": _mean_by_step(values) for name, values in lists.items()}
        for site in self.run.maps.get(self.cell, {}).get("sites", []):
            kept = {int(step): tokens for step, (_, tokens) in site.get("by_step", {}).items()}
            lines[f"tokens/{site['site']}/{site['role']}"] = [kept.get(step) for step in range(max(kept, default=-1) + 1)]
        wandb_run.define_metric("step", hidden=True)
        for section in ("steps/*", "tokens/*"):
            wandb_run.define_metric(section, step_metric="step")
        for step, values in enumerate(zip_longest(*lines.values())):
            wandb_run.log({"step": step, **{name: value for name, value in zip(lines, values, strict=True) if value is not None}})

    def _log_images(self, wandb_run: Any) -> None:  # noqa: ANN401
        """Base and cell side by side, an image or a video for every prompt, and which tokens were merged in the first one."""
        import wandb

        firsts: dict[str, Row] = {}
        for row in self.rows:
            firsts.setdefault(row.prompt, row)
        rows = list(firsts.values())[:PROMPTS]
        pairs = [side_by_side(list(map(self._open, dict.fromkeys((row.base, row.job)))), SIDE) for row in rows]
        media = [_media(pair, row.prompt) for pair, row in zip(pairs, rows, strict=True)]
        wandb_run.log({f"{self.run.noun}s": media})
        merge_map = self.run.maps.get(self.cell, {"maps": []})
        maps = [(map_strip(self._open(merge_map["job"]), one), f"{one['site']} {one['role']}") for one in merge_map["maps"]]
        if maps:
            wandb_run.log({"merge_map": [wandb.Image(image, caption=caption) for image, caption in maps]})

    def _open(self, job: str) -> list[Image.Image]:
        return open_frames(self.run.folder / self.run.jobs[job].image)


def _media(frames: Sequence[Image.Image], caption: str) -> Any:  # noqa: ANN401
    """An image, or a video as a GIF, which W&B plays without a package that encodes others."""
    import wandb

    if len(frames) == 1:
        return wandb.Image(frames[0], caption=caption)
    data = io.BytesIO()
    frames[0].save(data, format="GIF", save_all=True, append_images=frames[1:], duration=MILLISECONDS, loop=0)
    data.seek(0)
    return wandb.Video(data, caption=caption, format="gif")


def _settings(part: Any) -> Any:  # noqa: ANN401
    """A part in its YAML form, with every default."""
    if not isinstance(part, Part):
        return part
    return {"name": part.name, **{field.name: _settings(getattr(part, field.name)) for field in fields(part)}}


def _inert(value: Any) -> Any:  # noqa: ANN401
    """Plain data in which W&B sees no reference to an artifact, which it would look up on whatever server the text names."""
    if isinstance(value, dict):
        return {key: _inert(one) for key, one in value.items() if key != "_type"}
    if isinstance(value, list | tuple):
        return [_inert(one) for one in value]
    return f" {value}" if isinstance(value, str) and value.startswith("wandb-artifact:") else value


def _mean_by_step(lists: Sequence[Sequence[float | None]]) -> list[float | None]:
    return [summary.mean(values) for values in zip_longest(*lists)]
