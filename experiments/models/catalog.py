"""Which models there are: those that ship with this package, pipeline folders and hub ids. No weight is loaded here."""

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mergekit_diff.registry import one_of

from ..tasks import PICTURE, VIDEO, Call, Task
from .fetched import FETCHED
from .folder import check_folder
from .signature import check_prompt_is_enough, class_name, task_for

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


@dataclass(frozen=True)
class Model:
    """A model that ships with this package.

    Args:
        folder: of its pipeline.
        task: what it makes.
        licence: of its weights.
    """

    folder: Path
    task: Task
    licence: str = "Apache-2.0"


_EMBEDDED = Path(__file__).parent / "embedded"
_TASKS = {"emoji": PICTURE, "emoji-flux": PICTURE, "emoji-video": VIDEO}
MODELS = {name: Model(_EMBEDDED / name, task) for name, task in _TASKS.items()}


def check_model(name: str) -> Path | str:
    """The folder of a model or its fetched file, checked but not loaded, or a hub id.

    Raises:
        ValueError: no such model, its folder is incomplete, or it has to be fetched; the message is one line.
    """
    if name in FETCHED:
        return FETCHED[name].pin.check_here()
    folder = MODELS[name].folder if name in MODELS else Path(name)
    if not folder.is_dir():
        if name in MODELS:
            raise ValueError(f"the model {name!r} is missing from this installation ({folder} does not exist)")
        if _HUB_ID.match(name) and not folder.exists() and not name.startswith("."):
            return name
        one_of(name, [*MODELS, *FETCHED], "model (neither a folder nor a hub id owner/name)")
    check_folder(folder)
    return folder


def task_of(name: str) -> Task:
    """What a model makes, with its folder's record of how it is called. A hub id makes images until its index is here.

    Raises:
        ValueError: the folder's record is malformed; the message is one line.
    """
    if name in FETCHED:
        return FETCHED[name].task
    model = MODELS.get(name) or Model(Path(name), task_for(class_name(name)))
    return replace(model.task, call=Call.read(model.folder))


def check_prompted(name: str) -> None:
    """Refuse a model that needs more than a prompt, such as an image, and whose record does not have it.

    Raises:
        ValueError: says what it needs, in one line.
    """
    if name not in MODELS and name not in FETCHED:
        check_prompt_is_enough(class_name(name), Call.read(Path(name)))


def check_task(name: str, pipe: Any) -> None:  # noqa: ANN401
    """Refuse a loaded pipeline of another task than its model was taken for, which was not here before.

    Raises:
        ValueError: the tasks differ.
    """
    if name in FETCHED:
        return
    expected, found = task_of(name).name, task_for(type(pipe).__name__).name
    if expected != found:
        raise ValueError(f"{name}: expected a model that makes a {expected}, got one that makes a {found}; run this again")


def identity(name: str) -> str:
    """What distinguishes a model's weights from others: a hash of its folder's files or of its fetched file, or the hub id."""
    if name in FETCHED:
        return FETCHED[name].pin.digest[:16]
    model = check_model(name)
    if isinstance(model, str):
        return model
    total = hashlib.sha256()
    for file in sorted(file for file in model.rglob("*") if file.suffix in (".json", ".safetensors")):
        with file.open("rb") as opened:
            total.update(str(file.relative_to(model)).encode() + hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()[:16]
