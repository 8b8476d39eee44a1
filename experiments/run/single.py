"""One prompt: the base picture, the merged one and the merge map, side by side."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import check_writable, write_atomically
from ..models import check_device, check_model, identity, load_pipeline
from ..results import summary, tables
from ..study.config import Study
from ..study.jobs import Job, jobs
from ..study.loading import build, override
from ..study.sweep import cells
from ..terminal import complain, progress_bar, show_table
from .runner import check_metrics, try_sites, use_threads

if TYPE_CHECKING:
    from .picture import Made

OUT = "runs/generate"


def single_study(prompt: str, overrides: Iterable[str]) -> Study:
    """The study of one prompt and one strategy.

    Raises:
        ValueError: a wrong word, or one that has no meaning for one picture.
    """
    study = build(override({"prompts": [prompt], "out": OUT}, overrides))
    study = replace(study, metrics=tables.per_picture(study.metrics))
    if study.sweep or study.seeds != 1 or study.prompts != [prompt]:
        raise ValueError("generate makes one picture: it takes no prompts, seeds or sweep; use run for more")
    return study


def generate(study: Study) -> int:
    """Make the pictures, write them side by side into the study's ``out``, print the path and the row; 0, or 1 if it failed.

    Raises:
        ValueError: the input is wrong; nothing was written.
    """
    planned, out = cells(study), Path(study.out)
    check_model(study.model)
    check_metrics(study)
    check_device(study.device)
    check_writable(out)
    use_threads(study.threads)
    base, merged = jobs(planned, identity(study.model))
    pipe = load_pipeline(study.model, study.device, study.dtype, study.scheduler)
    try_sites(pipe, planned)

    try:
        made = _make_both(pipe, base, merged)
    except Exception as error:  # the input was right: this is a failure of the run
        complain(f"error: {type(error).__name__}: {error}")
        return 1
    path = out / f"{merged.id}.png"
    write_atomically(path, _side_by_side(*made))
    rows = [job.record() | one.counts | {"seconds": one.steps.seconds} for job, one in zip((base, merged), made, strict=True)]
    rows[1] |= _measure(*made, study)
    lines = summary.summarize(rows, study.metrics)
    show_table(study.prompts[0], tables.fidelity_table(lines, study.metrics, None))
    for note in tables.notes(lines):
        print(note)
    print(f"base | merged | merge map: {path}")
    return 0


def _make_both(pipe: Any, base: Job, merged: Job) -> "tuple[Made, Made]":  # noqa: ANN401
    from .picture import make_picture

    with progress_bar("pictures", 2) as advance:
        first = make_picture(pipe, base.cell, base.prompt, base.seed)
        advance()
        return first, make_picture(pipe, merged.cell, merged.prompt, merged.seed)


def _side_by_side(base: "Made", merged: "Made") -> bytes:
    from ..report.merge_map import draw_map, side_by_side
    from .generation import png_bytes

    maps = [draw_map(merged.image, one) for one in merged.maps[:1]]
    return png_bytes(side_by_side([base.image, merged.image, *maps]))


def _measure(base: "Made", merged: "Made", study: Study) -> dict[str, Any]:
    from .generation import measure
    from .picture import as_tensor

    return measure(study.metrics, as_tensor(merged.image), as_tensor(base.image), study.prompts[0])
