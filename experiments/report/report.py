"""Puts a run on one page."""

import io
from pathlib import Path

import jinja2
import yaml

from ..files import write_atomically
from ..results import tables
from ..results.equal_cost import table
from ..results.markdown import fidelity_and_speed
from ..results.run import Run
from .columns import columns
from .images import grid, maps
from .pareto import key, pareto
from .sheet import draw_sheet
from .signatures import not_measured, signatures
from .steps import drawings, scale
from .verdict import verdict


def write_report(run: Run) -> Path:
    """Write report.html, the images as sheet.png and the tables as tables.md; returns the path of the page.

    Raises:
        ValueError: the run has no image yet, or an image cannot be decoded; names the file.
    """
    if not run.rows:
        raise ValueError(f"{run.folder} has no finished image to report")
    html, sheet = page(run), io.BytesIO()
    draw_sheet(run).save(sheet, format="PNG", optimize=True)
    write_atomically(run.folder / "tables.md", fidelity_and_speed(run).encode())
    write_atomically(run.folder / "sheet.png", sheet.getvalue())
    path = run.folder / "report.html"
    write_atomically(path, html.encode())
    return path


def page(run: Run) -> str:
    """The page of a run as HTML."""
    config = {key: run.config[key] for key in ("study", "versions")}
    return _template().render(
        name=run.name,
        study=run.study,
        prompts=len({row.prompt for row in run.rows}),
        verdict=verdict(run),
        equal_cost=table(run.at_equal_cost) if run.at_equal_cost else None,
        pareto=pareto(run),
        key=key(run),
        columns=columns(run),
        notes=tables.notes(run.lines.values()),
        speed=tables.speed_table(run.speed) if run.speed else None,
        layers=tables.layers_table(run.rows) if any(row.layers for row in run.rows) else None,
        layers_title=tables.LAYERS,
        grid=grid(run),
        nouns=f"{run.noun}s",
        about=run.task.about,
        maps=maps(run),
        steps=drawings(run),
        scale=scale(),
        signatures=signatures(run),
        not_measured=not_measured(run),
        marks=run.marks,
        merged=run.merged,
        command=run.config["command"],
        git=run.config["git"],
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
    )


def _template() -> jinja2.Template:
    here = jinja2.FileSystemLoader(Path(__file__).parent)
    strict = {"autoescape": True, "undefined": jinja2.StrictUndefined}
    return jinja2.Environment(loader=here, trim_blocks=True, lstrip_blocks=True, **strict).get_template("page.html.j2")
