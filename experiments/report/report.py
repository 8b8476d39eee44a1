"""Gathers a run folder into one page."""

import io
from pathlib import Path

import jinja2
import yaml

from ..bench import read_table
from ..files import write_atomically
from ..results import tables
from ..results.contents import Contents
from ..results.folder import RunFolder
from .cells import columns
from .pareto import key, pareto
from .pictures import grid, maps
from .sheet import draw_sheet
from .signatures import not_measured, signatures
from .steps import drawings, scale
from .verdict import verdict


def write_report(folder: RunFolder) -> Path:
    """Write report.html, and beside it its pictures as sheet.png and its tables as tables.md; returns the page's path.

    Raises:
        ValueError: it is no run folder, or has no picture yet.
    """
    contents = Contents.read(folder)
    speed = folder.path / "speed.csv"
    times = tables.speed_table(read_table(speed)) if speed.exists() else None
    html = page(contents, times)
    fidelity = tables.fidelity_table(contents.lines, contents.study["metrics"], contents.primary)
    texts = [tables.markdown(tables.FIDELITY, fidelity), *([tables.markdown(tables.SPEED, times)] if times else [])]
    write_atomically(folder.path / "tables.md", "\n".join(texts).encode())
    sheet = io.BytesIO()
    draw_sheet(folder, contents.rows).save(sheet, format="PNG", optimize=True)
    write_atomically(folder.path / "sheet.png", sheet.getvalue())
    path = folder.path / "report.html"
    write_atomically(path, html.encode())
    return path


def page(contents: Contents, speed: list[list[str]] | None) -> str:
    """The page of a run as HTML.

    Args:
        contents: of the run folder.
        speed: heading and rows of the table of one block's times, if they were taken.
    """
    config = {key: contents.config[key] for key in ("study", "versions")}
    return _template().render(
        name=contents.folder.path.absolute().name,
        study=contents.study,
        prompts=len({row["prompt"] for row in contents.rows}),
        verdict=verdict(contents),
        pareto=pareto(contents),
        key=key(contents),
        columns=columns(contents),
        notes=tables.notes(contents.lines),
        speed=speed,
        grid=grid(contents),
        bases=[cell for cell in contents.cells if cell not in contents.merged],
        maps=maps(contents),
        steps=drawings(contents),
        scale=scale(),
        signatures=signatures(contents),
        not_measured=not_measured(contents),
        marks=contents.marks,
        merged=contents.merged,
        command=contents.config["command"],
        git=contents.config["git"],
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
    )


def _template() -> jinja2.Template:
    here = jinja2.FileSystemLoader(Path(__file__).parent)
    strict = {"autoescape": True, "undefined": jinja2.StrictUndefined}
    return jinja2.Environment(loader=here, trim_blocks=True, lstrip_blocks=True, **strict).get_template("page.html.j2")
