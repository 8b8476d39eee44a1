"""What a pipeline makes and what it must be given, read off its class before any weight is loaded."""

import inspect
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ..reading import read_json
from ..tasks import PICTURE, VIDEO, Call, Task
from .quiet import quiet

Parameters = Mapping[str, inspect.Parameter]


def class_name(model: str) -> str:
    """The class of the pipeline in a folder, or of a hub id whose index is on this machine; empty if it is not known."""
    index = Path(model) / "model_index.json"
    return _class_in(index) if index.is_file() else _of_hub(model)


def task_for(name: str) -> Task:
    """The task of a pipeline class of diffusers: those that can be asked for a number of frames make videos, all others images.

    >>> task_for("WanPipeline").name, task_for("FluxPipeline").name
    ('video', 'picture')
    """
    return VIDEO if "num_frames" in parameters(name) else PICTURE


def check_prompt_is_enough(name: str, call: Call) -> None:
    """Refuse a pipeline class that needs more than a prompt and what its model's record has.

    Raises:
        ValueError: says what else it needs, in one line.

    >>> check_prompt_is_enough("WanImageToVideoPipeline", Call())
    Traceback (most recent call last):
    ValueError: expected a pipeline that needs a prompt alone, got WanImageToVideoPipeline, which needs image
    """
    taken = parameters(name)
    needed = [one for one, of in taken.items() if of.default is of.empty and of.kind is of.POSITIONAL_OR_KEYWORD]
    needed = [one for one in needed if one != "prompt" and one not in call.arguments]
    faults = ["has no prompt"] * (bool(taken) and "prompt" not in taken) + [f"needs {', '.join(needed)}"] * bool(needed)
    if faults:
        raise ValueError(f"expected a pipeline that needs a prompt alone, got {name}, which {' and '.join(faults)}")


@cache
def parameters(name: str) -> Parameters:
    """What a pipeline class of diffusers takes when it is called, by name; empty if diffusers has no such class."""
    if not name:
        return {}
    import diffusers

    with quiet():
        pipeline: Any = getattr(diffusers, name, None)
    return {} if pipeline is None else dict(list(inspect.signature(pipeline.__call__).parameters.items())[1:])


def _class_in(index: Path) -> str:
    """As the index says; a malformed one is refused where the model is checked."""
    try:
        return str(read_json(index)["_class_name"])
    except (KeyError, TypeError, ValueError):
        return ""


@cache
def _of_hub(model: str) -> str:
    """Cached, so that a model has one task as long as a process runs, also if it is downloaded meanwhile."""
    from huggingface_hub import try_to_load_from_cache

    try:
        index = try_to_load_from_cache(model, "model_index.json")
    except ValueError:  # neither a folder nor a hub id
        index = None
    return _class_in(Path(index)) if isinstance(index, str) else ""
