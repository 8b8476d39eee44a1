"""Weights & Biases: a run a cell, written from the run folder when all is done. A sink, never the record."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from ..results import summary
from ..results.comparison import by_cell
from ..results.folder import IGNORED, RunFolder
from ..terminal import complain
from .tracked_cell import Row, TrackedCell

Mode = Literal["offline", "online"]
SETTINGS = {
    "silent": True,
    "console": "off",
    "disable_git": True,  # the commit stands in config.yaml
    "save_code": False,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "init_timeout": 30,
    "finish_timeout": 60,
    "finish_timeout_raises": True,
}


def track(folder: RunFolder, study: Mapping[str, Any]) -> None:
    """Tell W&B about every cell of a finished run, as ``study["wandb"]`` says. A failure is one line on stderr, never an error.

    Args:
        folder: rows, pictures and maps; W&B's own files go to its ``wandb/``.
        study: the study as plain data. Where "online" fails, the run is tracked offline, which ``wandb sync`` can send later.
    """
    modes: dict[str, list[Mode]] = {"disabled": [], "offline": ["offline"], "online": ["online", "offline"]}
    for mode in modes[study["wandb"]["mode"]]:
        try:
            with _files_in(folder.path, mode):
                return _track(folder, study, mode)
        except Exception as error:  # whatever happens in a sink, the run is good
            rest = "tracked offline instead" if mode == "online" else f"the rows in {folder.path} are whole without it"
            complain(f"W&B, {mode}: {type(error).__name__}: {error}; {rest}")


@contextlib.contextmanager
def _files_in(folder: Path, mode: str) -> Iterator[None]:
    """Let W&B write nowhere else. Online it still finds the server and the user's name in its own settings."""
    before = {key: value for key, value in os.environ.items() if key.startswith("WANDB_")}
    own = folder / "wandb"
    places = {"WANDB_DIR": folder, "WANDB_DATA_DIR": own, "WANDB_CACHE_DIR": own, "WANDB_ARTIFACT_DIR": own}
    places |= {"WANDB_CONFIG_DIR": own} if mode == "offline" else {}
    os.environ.update({name: str(path.absolute()) for name, path in places.items()})
    try:
        yield
    finally:
        for key in [key for key in os.environ if key.startswith("WANDB_")]:
            del os.environ[key]
        os.environ.update(before)


def _track(folder: RunFolder, study: Mapping[str, Any], mode: Mode) -> None:
    """A W&B run a cell.

    Raises:
        PermissionError: there is no key for going online.
    """
    import wandb

    alone = wandb.run is None  # else a notebook has a run of its own open, which must go on
    wandb.setup(wandb.Settings(**SETTINGS))
    try:
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            raise PermissionError("no key; wandb login keeps one")
        for rows in _cells(folder):
            _track_cell(folder, study, rows, mode)
    finally:
        if alone:
            wandb.teardown()


def _cells(folder: RunFolder) -> list[list[Row]]:
    """The rows of every cell; a base is no trial of a W&B sweep, whose agent calls once a cell."""
    rows = summary.newest(folder.rows().values())
    return list(by_cell(row for row in rows if not (row["role"] == "base" and "WANDB_SWEEP_ID" in os.environ)).values())


def _track_cell(folder: RunFolder, study: Mapping[str, Any], rows: list[Row], mode: Mode) -> None:
    import wandb

    first, wandb_id = rows[0], _run_id(folder, rows[0]["cell"])
    cell = TrackedCell(folder, rows, study["metrics"])
    for old in (folder.path / "wandb").glob(f"*run-*-{wandb_id}"):
        shutil.rmtree(old)
    run = wandb.init(
        project=study["wandb"]["project"],
        group=folder.path.absolute().name,
        job_type=first["role"],
        name=first["cell"],
        id=wandb_id,
        mode=mode,
        dir=folder.path,
        config=cell.config(study),
        settings=wandb.Settings(**SETTINGS),
        reinit="create_new",
    )
    try:  # not as a context manager, which would print the traceback of a failure
        cell.log(run)
        run.summary.update(cell.summary())
    finally:
        run.finish()


def _run_id(folder: RunFolder, cell: str) -> str:
    """The same for the same cell of the same folder, so that a resumed run replaces its W&B runs; an agent gives its own."""
    if "WANDB_SWEEP_ID" in os.environ and "WANDB_RUN_ID" in os.environ:
        return os.environ["WANDB_RUN_ID"]
    decides = {key: value for key, value in folder.config()["study"].items() if key not in IGNORED}
    text = json.dumps([str(folder.path.absolute()), decides, cell], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
