"""Diffusion pipelines by name, folder or hub id. Only safetensors are read, and no code that comes with a model is run."""

import hashlib
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mergekit_diff.registry import one_of

NAMES = {"emoji": Path(__file__).parent / "embedded" / "emoji"}
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
SCHEDULERS = {
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),  # as Stable Diffusion runs it; the other way needs many steps
    "euler": ("EulerDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}


def check_model(name: str) -> Path | str:
    """The folder of a model, looked over but not loaded, or a hub id.

    Raises:
        ValueError: no such model, or its folder is not whole; the message is one line.
    """
    folder = NAMES.get(name, Path(name))
    if not folder.is_dir():
        if name in NAMES:
            raise ValueError(f"the model {name!r} is missing from this installation ({folder} does not exist)")
        if _HUB_ID.match(name) and not folder.exists() and not name.startswith("."):
            return name
        one_of(name, NAMES, "model (neither a folder nor a hub id owner/name)")
    _check_folder(folder)
    return folder


def identity(name: str) -> str:
    """What tells a model's weights apart: a hash of its folder's files, or the hub id."""
    model = check_model(name)
    if isinstance(model, str):
        return model
    total = hashlib.sha256()
    for file in sorted(file for file in model.rglob("*") if file.suffix in (".json", ".safetensors")):
        with file.open("rb") as opened:
            total.update(str(file.relative_to(model)).encode() + hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()[:16]


def load_pipeline(name: str, device: str = "auto", dtype: str = "float32", scheduler: str | None = None) -> Any:  # noqa: ANN401
    """A text-to-image pipeline, ready to be called.

    Args:
        name: "emoji" (the model of this package), a pipeline folder, or a hub id.
        device: "auto" takes CUDA if there is one, else the CPU.
        dtype: "float32", "float16" or "bfloat16".
        scheduler: "ddim", "pndm", "euler", "heun", "dpm++" or "lcm"; None keeps the model's own.

    Raises:
        ValueError: the model is missing or corrupt; the message is one line.
    """
    model = check_model(name)
    import torch
    from diffusers import DiffusionPipeline

    with _quiet():
        try:
            pipe = DiffusionPipeline.from_pretrained(model, torch_dtype=getattr(torch, dtype), use_safetensors=True)
        except Exception as error:
            raise ValueError(f"the model {name!r} cannot be loaded: {_one_line(error)}") from error
    pipe.set_progress_bar_config(disable=True)
    if scheduler is not None:
        set_scheduler(pipe, scheduler)
    return pipe.to(resolve_device(device))


def resolve_device(device: str) -> str:
    """The device that is meant: "auto" is CUDA if there is one, else the CPU."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def check_device(device: str, devices: int = 1) -> None:
    """Refuse a device that is not there, before any weight is loaded.

    Args:
        device: as in :func:`load_pipeline`.
        devices: how many of them are asked for.

    Raises:
        ValueError: there is none, or there are fewer; the message is one line.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda: torch finds no CUDA device here")
    if resolve_device(device) == "cuda" and devices > torch.cuda.device_count():
        raise ValueError(f"devices={devices}: torch finds {torch.cuda.device_count()} CUDA devices here")


def set_scheduler(pipe: Any, name: str) -> None:  # noqa: ANN401
    """Give a pipeline another scheduler of the same noise schedule."""
    import diffusers

    cls, settings = SCHEDULERS[name]
    with _quiet():
        pipe.scheduler = getattr(diffusers, cls).from_config(pipe.scheduler.config, **settings)


def _check_folder(folder: Path) -> None:
    """Find out what is broken from the headers, without loading a weight."""
    index = folder / "model_index.json"
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))
    except OSError:
        raise ValueError(f"{folder} is not a pipeline folder: it has no model_index.json") from None
    except ValueError as error:
        raise ValueError(f"{folder} is corrupt: model_index.json is not JSON ({_one_line(error)})") from None
    for part, kind in parts.items():
        if isinstance(kind, list) and kind[0] is not None and not (folder / part).is_dir():
            raise ValueError(f"{folder} is corrupt: {part}/ is missing")
    _check_weights(folder)


def _check_weights(folder: Path) -> None:
    from safetensors import safe_open

    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} has no .safetensors weights, the only ones that are read")
    for file in files:
        try:
            with safe_open(file, framework="numpy"):
                pass
        except Exception as error:
            raise ValueError(f"{folder} is corrupt: {file.relative_to(folder)}: {_one_line(error)}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' chatter about accelerate, progress of every part, and schedulers' old settings."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    before = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        diffusers_logging.set_verbosity(before[0])
        transformers_logging.set_verbosity(before[1])


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:197]}..."
