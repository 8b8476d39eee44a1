"""What of a run is kept for good: its rows without the pictures, from which every verdict can be computed again."""

import gzip
import json
from pathlib import Path
from typing import Any

import yaml

from ..files import write_atomically
from ..study.config import Primary
from . import comparison, summary, tables
from .folder import CONFIG, RunFolder

ROWS = "rows.jsonl.gz"
COPIED = (CONFIG, "sets.json", "costs.json")


def keep(folder: RunFolder, into: Path) -> Path:
    """Copy the configuration, rows, sets and costs of a run; returns the new folder, which has the run's name.

    Raises:
        ValueError: it is no run folder, or has no rows.
    """
    folder.config()
    rows = summary.newest(folder.rows().values())
    if not rows:
        raise ValueError(f"{folder.path} has no finished picture")
    target = into / folder.path.absolute().name
    for name in COPIED:
        if (folder.path / name).is_file():
            write_atomically(target / name, (folder.path / name).read_bytes())
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomically(target / ROWS, gzip.compress(lines.encode(), mtime=0))
    return target


def is_kept(path: Path) -> bool:
    """Whether a folder is what :func:`keep` wrote."""
    return (path / ROWS).is_file()


def read(path: Path) -> list[dict[str, Any]]:
    """The rows that were kept."""
    return [json.loads(line) for line in gzip.decompress((path / ROWS).read_bytes()).splitlines()]


def markdown(path: Path) -> str:
    """The question, the answer and the tables of kept rows, computed anew, as they stand in LOG.md."""
    study = yaml.safe_load((path / CONFIG).read_text(encoding="utf-8"))["study"]
    rows, names = read(path), tables.per_picture(study["metrics"])
    primary = Primary(**study["primary"]) if study.get("primary") else None
    texts = [tables.markdown(tables.FIDELITY, tables.fidelity_table(summary.summarize(rows, names), names, primary))]
    if primary is not None:
        compared = comparison.compare(rows, primary.metric, primary.better)
        texts = [comparison.answer(compared) + "\n", *texts]
        texts += [tables.markdown(tables.VERDICTS, tables.verdict_table(compared))] if compared else []
    if any(row.get("stale") for row in rows):
        texts += [tables.markdown(title, tables.steps_table(rows, column)) for column, title in tables.OVER_STEPS.items()]
    return "\n".join([f"{study['question']}\n", *texts])
