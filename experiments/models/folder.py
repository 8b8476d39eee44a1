"""Checks a pipeline folder by its index and the headers of its weights, before anything is loaded."""

from importlib.util import find_spec
from pathlib import Path

from ..reading import read_json

LIBRARIES = ("diffusers", "transformers")
"""Where the classes of a pipeline's parts may come from, besides a module of ``diffusers.pipelines``."""


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not a pipeline, or is incomplete.

    Raises:
        ValueError: says what is missing or corrupt, or which code it would bring, in one line.
    """
    index = folder / "model_index.json"
    try:
        parts = read_json(index)
    except OSError:
        raise ValueError(f"expected a pipeline folder, got {folder}, which has no model_index.json") from None
    if not isinstance(parts, dict):
        raise ValueError(f"expected a mapping in {index}, got {type(parts).__name__}")
    if not isinstance(name := parts.get("_class_name", ""), str):
        raise ValueError(f"expected the name of a class of diffusers in {index}, got {name!r}")
    for part, kind in parts.items():
        if isinstance(kind, list) and kind and isinstance(kind[0], str):  # [null, null] is a part that is left out
            _check_part(folder, part, *map(str, kind[:2]))
    _check_weights(folder)


def one_line(error: BaseException) -> str:
    """The message of an error of another library, in one line of at most 200 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:197]}..."


def _check_part(folder: Path, part: str, library: str, name: str = "") -> None:
    """Refuse a part whose class is not one of an installed library: it would be code that comes with the folder."""
    own = library.isidentifier() and not library.startswith("_")
    if library not in LIBRARIES and not (own and find_spec(f"diffusers.pipelines.{library}")):
        raise ValueError(f"expected a class of {' or '.join(LIBRARIES)} for {part} in {folder}, got {library}.{name}")
    if Path(part).name != part or not (folder / part).is_dir():
        raise ValueError(f"expected {part}/ in {folder}, as model_index.json says; got none")
    if (folder / part / f"{library}.py").exists():
        raise ValueError(f"expected a model without code, got {folder / part / library}.py, which would be run")
    configs = [file for file in (folder / part).glob("*config.json") if name.startswith("Auto")]
    if any("auto_map" in read_json(file) for file in configs):
        raise ValueError(f"expected a model without code, got an auto_map in {folder / part}, which names some")


def _check_weights(folder: Path) -> None:
    from safetensors import safe_open

    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise ValueError(f"expected .safetensors weights in {folder}, got none; no other format is read")
    for file in files:
        try:
            with safe_open(file, framework="numpy"):
                pass
        except Exception as error:
            raise ValueError(f"expected safetensors in {file}, got {one_line(error)}") from None
