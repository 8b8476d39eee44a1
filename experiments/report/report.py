"""Gathers a run folder into one page."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import jinja2
import yaml
from PIL import Image

from .. import summary, tables
from ..bench import read_table
from ..config import Primary
from ..folder import RunFolder, write_atomically
from .merge_map import draw_map
from .sheet import draw_sheet

PROMPTS = 24
"""So many prompts are shown; all stand in the table and on the disk."""


def write_report(folder: RunFolder) -> Path:
    """Write report.html, and beside it its pictures as sheet.png and its tables as tables.md; returns the page's path.

    Raises:
        ValueError: it is no run folder, or has no picture yet.
    """
    config = folder.config()
    rows = summary.newest(folder.rows().values())
    if not rows:
        raise ValueError(f"{folder.path} has no finished picture to report")
    study = config["study"]
    lines = summary.summarize(rows, study["metrics"])
    primary = Primary(**study["primary"]) if study.get("primary") else None
    speed = folder.path / "speed.csv"
    fidelity = tables.fidelity_table(lines, study["metrics"], primary)
    times = tables.speed_table(read_table(speed)) if speed.exists() else None
    html = _template().render(
        name=folder.path.absolute().name,
        study=study,
        fidelity=fidelity,
        notes=tables.notes(lines),
        speed=times,
        grid=_grid(folder, rows),
        prompts=len({row["prompt"] for row in rows}),
        maps=_maps(folder, rows),
        command=config["command"],
        git=config["git"],
        config=yaml.safe_dump({key: config[key] for key in ("study", "versions")}, sort_keys=False, allow_unicode=True),
    )
    texts = [tables.markdown(tables.FIDELITY, fidelity), *([tables.markdown(tables.SPEED, times)] if times else [])]
    write_atomically(folder.path / "tables.md", "\n".join(texts).encode())
    sheet = io.BytesIO()
    draw_sheet(folder, rows).save(sheet, format="PNG", optimize=True)
    write_atomically(folder.path / "sheet.png", sheet.getvalue())
    path = folder.path / "report.html"
    write_atomically(path, html.encode())
    return path


def _template() -> jinja2.Template:
    here = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(loader=here, autoescape=True, undefined=jinja2.StrictUndefined).get_template("page.html.j2")


def _grid(folder: RunFolder, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For the first prompts, at the first seed, the picture of every cell."""
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["seed"] == 0:
            by_prompt.setdefault(row["prompt"], []).append(row)
    shown = list(by_prompt.items())[:PROMPTS]
    return [{"prompt": prompt, "pictures": [_picture(folder, row) for row in group]} for prompt, group in shown]


def _picture(folder: RunFolder, row: dict[str, Any]) -> dict[str, Any]:
    note = f"PSNR {'∞' if row['psnr'] == 'inf' else format(row['psnr'], '.1f') + ' dB'}" if "psnr" in row else ""
    return {"cell": row["cell"], "note": note, "data": _embed((folder.path / row["image"]).read_bytes())}


def _maps(folder: RunFolder, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row of maps for every cell that has them, in the order of the table."""
    found = []
    for row in rows:
        file = folder.path / "maps" / f"{row['job']}.json"
        if file.exists():
            kept = json.loads(file.read_text(encoding="utf-8"))
            picture = Image.open(folder.path / kept["image"])
            found.append(kept | {"maps": [_drawn(picture, one) for one in kept["maps"]]})
    return found


def _drawn(picture: Image.Image, one: dict[str, Any]) -> dict[str, Any]:
    data = io.BytesIO()
    draw_map(picture, one).save(data, format="PNG", optimize=True)
    grid = " x ".join(map(str, one["grid"]))
    return {"stage": one["stage"], "site": one["site"], "role": one["role"].replace("_", " "), "grid": grid,
            "tokens": len(one["assign"]), "kept": len(one["rep"]), "data": _embed(data.getvalue())}  # fmt: skip


def _embed(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
