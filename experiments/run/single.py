"""The command ``mergekit-diff generate``: the base image, the merged one and the merge map of one prompt, side by side."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import check_writable, write_atomically
from ..models import check_device, check_model, check_task, identity, load_pipeline, task_of, use_threads
from ..results import summary, tables
from ..results.row import Row
from ..study.config import Study
from ..study.jobs import Job, jobs
from ..study.loading import build, override
from ..study.sweep import cells
from ..tasks.frames import Frames, encode, side_by_side, suffix
from ..terminal import complain, progress_bar, say, show_table
from .runner import check_metrics, try_sites

if TYPE_CHECKING:
    from .result import Result

OUT = "runs/generate"


def single_study(prompt: str, overrides: Iterable[str]) -> Study:
    """The study of one prompt and one strategy.

    Raises:
        ValueError: a wrong word, or one that makes no sense for a single image.
    """
    study = build(override({"prompts": [prompt], "out": OUT}, overrides))
    study = replace(study, metrics=tables.per_image(study.metrics), repeat=False)
    if study.sweep or study.seeds != 1 or study.prompts != [prompt]:
        raise ValueError("generate makes one image: expected no prompts, seeds or sweep; use run for more")
    return study


def generate(study: Study) -> int:
    """Make the images, write them side by side into the study's ``out``, print the path and the row; 0, or 1 if it failed.

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
    check_task(study.model, pipe)
    try_sites(pipe, planned)

    try:
        results = _make_both(pipe, base, merged)
    except Exception as error:  # the input was right, so this is a failure of the run
        complain(f"error: {type(error).__name__}: {error}")
        return 1
    frames = _side_by_side(study, *results)
    path = out / f"{merged.id}{suffix(frames)}"
    write_atomically(path, encode(frames))
    measured = ({"made_by": {}}, _measure(study, *results))
    rows = [_row(*parts) for parts in zip((base, merged), results, measured, strict=True)]
    lines = summary.summarize(rows, study.metrics)
    show_table(study.prompts[0], tables.fidelity_table(lines, study.metrics, None, task_of(study.model).noun))
    for note in tables.notes(lines):
        say(note)
    say(f"base | merged | merge map: {path}")
    return 0


def _make_both(pipe: Any, base: Job, merged: Job) -> "tuple[Result, Result]":  # noqa: ANN401
    from .call import prepared
    from .result import make_result

    with progress_bar("images", 2) as advance:
        results = []
        for job in (base, merged):
            with prepared(pipe, job.cell):
                results.append(make_result(pipe, job.cell, job.prompt, job.seed))
            advance()
        return results[0], results[1]


def _row(job: Job, result: "Result", measured: dict[str, Any]) -> Row:
    times = {"seconds": result.steps.seconds, "step_seconds": result.steps.each}
    from .generation import with_measures

    return Row(**job.record(), **with_measures(result.counts, measured), **times)


def _side_by_side(study: Study, base: "Result", merged: "Result") -> Frames:
    from ..report.merge_map import draw_maps

    task = task_of(study.model)
    both = [task.frames(each.output) for each in (base, merged)]
    return side_by_side([*both, *(draw_maps(both[1], each) for each in merged.maps[:1])])


def _measure(study: Study, base: "Result", merged: "Result") -> dict[str, Any]:
    from .generation import measure

    task = task_of(study.model)
    return measure(
        study.metrics, task.as_tensor(merged.output), task.as_tensor(base.output), study.prompts[0], merged.counts.get("layers")
    )
