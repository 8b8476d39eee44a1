"""Which models there are: those that ship with this package, pipeline folders and hub ids. No weight is loaded here."""

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

from mergekit_diff.registry import one_of

from ..tasks import PICTURE, Call, Task
from .folder import check_folder

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


@dataclass(frozen=True)
class Model:
    """A model that ships with this package.

    Args:
        folder: of its pipeline.
        task: what it makes.
    """

    folder: Path
    task: Task


_EMBEDDED = Path(__file__).parent / "embedded"
MODELS = {name: Model(_EMBEDDED / name, PICTURE) for name in ("emoji", "emoji-flux")}


def check_model(name: str) -> Path | str:
    """The folder of a model, checked but not loaded, or a hub id.

    Raises:
        ValueError: no such model, or its folder is incomplete; the message is one line.
    """
    folder = MODELS[name].folder if name in MODELS else Path(name)
    if not folder.is_dir():
        if name in MODELS:
            raise ValueError(f"the model {name!r} is missing from this installation ({folder} does not exist)")
        if _HUB_ID.match(name) and not folder.exists() and not name.startswith("."):
            return name
        one_of(name, MODELS, "model (neither a folder nor a hub id owner/name)")
    check_folder(folder)
    return folder


def task_of(name: str) -> Task:
    """What a model makes, with its folder's record of how it is called.

    A folder or a hub id holds a text-to-image pipeline: others cannot be loaded yet.

    Raises:
        ValueError: the folder's record is malformed; the message is one line.
    """
    model = MODELS.get(name, Model(Path(name), PICTURE))
    return replace(model.task, call=Call.read(model.folder))


def identity(name: str) -> str:
    """What distinguishes a model's weights from others: a hash of its folder's files, or the hub id."""
    model = check_model(name)
    if isinstance(model, str):
        return model
    total = hashlib.sha256()
    for file in sorted(file for file in model.rglob("*") if file.suffix in (".json", ".safetensors")):
        with file.open("rb") as opened:
            total.update(str(file.relative_to(model)).encode() + hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()[:16]
