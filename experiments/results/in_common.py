"""What the cells of a run have in common, in one line: their names say only what differs."""

from collections.abc import Mapping, Set
from typing import Any

from ..study.labels import label
from ..study.loading import flatten
from ..study.specs import IMAGE
from .run import Run

SEED = "seed"


def in_common(run: Run) -> str:
    """Model, number of images, and the settings of image, strategy and merging that are not swept.

    The options of merging are those of the rows, so a strategy's own defaults are among them. The settings of the strategy are
    those of the study; there are none where the sweep replaces the strategy itself.
    """
    swept = set(flatten(run.study["sweep"]))
    images = {key: run.study.get(key) for key in (*IMAGE, "cache", "dtype") if key not in swept}
    known = {key: value for key, value in images.items() if value is not None}
    parts = [_counts(run), known, _strategy(run.study["strategy"], swept), _merging(run)]
    return f"In all cells: {'; '.join(label(part) for part in parts if part)}."


def _counts(run: Run) -> dict[str, Any]:
    images = sorted(line.n for line in run.lines.values())
    n = images[0] if images[0] == images[-1] else f"{images[0]} to {images[-1]}"
    return {"model": run.study["model"], "prompts": len({row.prompt for row in run.rows}), "seeds": run.study["seeds"], "n": n}


def _strategy(spec: Mapping[str, Any], swept: Set[str]) -> dict[str, Any]:
    if swept & {"strategy", "strategy.name"}:
        return {}
    return {"strategy": {key: value for key, value in spec.items() if not _is_swept(f"strategy.{key}", swept)}}


def _is_swept(key: str, swept: Set[str]) -> bool:
    """Whether a setting, or one inside it, is in the sweep."""
    return any(f"{name}.".startswith(f"{key}.") for name in swept)


def _merging(run: Run) -> dict[str, Any]:
    """The options that are the same in all cells, but for the seed of what is drawn."""
    first, *others = [row.merging for row in run.rows if row.merging is not None] or [{}]
    return {key: value for key, value in first.items() if key != SEED and all(other.get(key) == value for other in others)}
