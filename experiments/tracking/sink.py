"""Sends a finished run to Weights & Biases, one W&B run for every cell. The run folder stays the record; nothing is read back."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from ..results.folder import IGNORED
from ..results.run import Run
from ..study.config import Wandb
from ..terminal import complain
from .cell_log import CellLog
from .patience import LONGEST, Patience

Mode = Literal["offline", "online"]
ATTEMPTS: dict[str, list[Mode]] = {"disabled": [], "offline": ["offline"], "online": ["online", "offline"]}
"""What to try, in order, for every value of ``wandb.mode``."""
SETTINGS = {
    "silent": True,
    "console": "off",
    "disable_git": True,  # the commit is in config.yaml
    "save_code": False,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "init_timeout": 90,
    "finish_timeout": 60,
    "finish_timeout_raises": True,
}


def track(run: Run, options: Wandb) -> None:
    """Log every cell of a finished run. A failure is one line on stderr, never an error.

    Args:
        run: its rows, images and maps; W&B's own files go to its ``wandb/``.
        options: project and mode. Where "online" fails, the run is tracked offline; ``wandb sync`` can send it later.
    """
    for mode in ATTEMPTS[options.mode]:
        try:
            with _files_in(run.folder, mode):
                return _log_cells(run, options.project, mode)
        except (Exception, SystemExit) as error:  # W&B exits where its service died; whatever a sink does, the run is good
            rest = "tracking offline instead" if mode == "online" else f"the rows in {run.folder} are complete without it"
            complain(f"W&B, {mode}: {type(error).__name__}: {error}; {rest}")


@contextlib.contextmanager
def _files_in(folder: Path, mode: Mode) -> Iterator[None]:
    """Keep W&B from writing anywhere else. Online it may still read the server and the user's name from its own settings."""
    before = _settings()
    own = folder / "wandb"
    places = {"WANDB_DIR": folder, "WANDB_DATA_DIR": own, "WANDB_CACHE_DIR": own, "WANDB_ARTIFACT_DIR": own}
    places |= {"WANDB_CONFIG_DIR": own} if mode == "offline" else {}
    os.environ.update({name: str(path.absolute()) for name, path in places.items()})
    try:
        yield
    finally:
        for key in _settings():
            del os.environ[key]
        os.environ.update(before)


def _settings() -> dict[str, str]:
    """W&B's environment, but for the address of its service: put back after the service has ended, it would be a dead one."""
    return {key: value for key, value in os.environ.items() if key.startswith("WANDB_") and key != "WANDB_SERVICE"}


def _log_cells(run: Run, project: str, mode: Mode) -> None:
    """Open and finish a W&B run for every cell.

    Raises:
        PermissionError: there is no key for going online.
    """
    import wandb

    alone = wandb.run is None  # otherwise a notebook has opened a W&B run of its own, which must stay open
    with Patience(LONGEST if alone else None) as patience:
        wandb.setup(wandb.Settings(**SETTINGS))
        try:
            if mode == "online" and not wandb.login(prompt=False, verify=False):
                raise PermissionError("no key; wandb login stores one")
            for cell in _tracked(run):
                patience.again()
                _log_cell(run, cell, project, mode)
        finally:
            patience.again()
            if alone:
                wandb.teardown()


def _tracked(run: Run) -> list[str]:
    """The cells to log; under a W&B sweep only the agent's own cell, since a base is not a trial of the sweep."""
    return run.merged if "WANDB_SWEEP_ID" in os.environ else list(run.cells)


def _log_cell(run: Run, cell: str, project: str, mode: Mode) -> None:
    import wandb

    log, wandb_id = CellLog(run, cell), _run_id(run, cell)
    for old in (run.folder / "wandb").glob(f"*run-*-{wandb_id}"):
        shutil.rmtree(old)
    wandb_run: Any = wandb.init(
        project=project,
        group=run.name,
        job_type=run.cells[cell][0].role,
        name=cell,
        id=wandb_id,
        mode=mode,
        dir=run.folder,
        config=log.config(),
        settings=wandb.Settings(**SETTINGS),
        reinit="create_new",
    )
    try:  # not as a context manager, which would print the traceback of a failure
        log.history(wandb_run)
        wandb_run.summary.update(log.summary())
    finally:
        wandb_run.finish()


def _run_id(run: Run, cell: str) -> str:
    """The same for the same cell of the same folder, so that a resumed run replaces its W&B runs; an agent sets its own."""
    if "WANDB_SWEEP_ID" in os.environ and "WANDB_RUN_ID" in os.environ:
        return os.environ["WANDB_RUN_ID"]
    decides = {key: value for key, value in run.study.items() if key not in IGNORED}
    text = json.dumps([str(run.folder.absolute()), decides, cell], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
