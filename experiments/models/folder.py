"""Checks a pipeline folder by its index and the headers of its weights, before anything is loaded."""

import json
from pathlib import Path


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not a pipeline, or is incomplete.

    Raises:
        ValueError: says what is missing or corrupt, in one line.
    """
    index = folder / "model_index.json"
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))
    except OSError:
        raise ValueError(f"expected a pipeline folder, got {folder}, which has no model_index.json") from None
    except ValueError as error:
        raise ValueError(f"expected JSON in {index}, got {one_line(error)}") from None
    for part, kind in parts.items():
        if isinstance(kind, list) and kind[0] is not None and not (folder / part).is_dir():
            raise ValueError(f"expected {part}/ in {folder}, as model_index.json says; got none")
    _check_weights(folder)


def one_line(error: BaseException) -> str:
    """The message of an error of another library, in one line of at most 200 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:197]}..."


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
