"""Whether a metric can be measured here, checked before the first image is made and without loading weights."""

import os
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

from .networks import CLIP, LPIPS, clip_name


def check_available(
    name: str, model: str, reference: str | None = None, prompts: Iterable[str] = (), images: int | None = None
) -> None:
    """Look for what a metric needs: weights, an extra, real images, captions that it can parse.

    Args:
        name: of a metric.
        model: as the study names it.
        reference: folder of real images, or None.
        prompts: of the study.
        images: how many every cell will have, or None if unknown.

    Raises:
        ValueError: something is missing; the message is one line that says how to get it.
    """
    checks: dict[str, Callable[[], None]] = {
        "lpips": _check_lpips,
        "clip": _check_clip,
        "text": lambda: _check_text(prompts),
        "kid": lambda: _check_reference("kid", model, reference),
        "fid": lambda: _check_fid(model, reference),
    }
    if name in checks:
        checks[name]()
    if name in ("kid", "fid") and images is not None:
        _check_size(name, images)


def _check_size(name: str, images: int) -> None:
    from .sets import LEAST

    if images < LEAST:
        raise ValueError(f"{name}: expected sets of at least {LEAST} images, got {images}; add prompts or seeds")


def _check_lpips() -> None:
    path = os.environ.get(LPIPS)
    if path is None:
        raise ValueError(
            f"lpips needs weights: set {LPIPS}=FILE.safetensors (mergekit_diff/experiments/metrics/lpips.py says how)"
        )
    if not Path(path).is_file():
        raise ValueError(f"{LPIPS}: expected a file, got {path}, which is not a file")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ValueError(f"{LPIPS}: expected safetensors in {path}, got {error}") from None


def _check_clip() -> None:
    name = clip_name()
    if Path(name).is_dir():
        missing = [file for file in ("config.json", "model.safetensors") if not (Path(name) / file).is_file()]
        if missing:
            raise ValueError(f"{CLIP}: expected a CLIP model, got {name}, which has no {' and no '.join(missing)}")
        return
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, "model.safetensors")
    except ValueError:  # neither a folder nor a hub id
        found = None
    if not isinstance(found, str):
        raise ValueError(
            f"clip needs weights on this machine, but {name!r} is not here: set {CLIP}=FOLDER, a CLIP model in safetensors"
        )


def _check_text(prompts: Iterable[str]) -> None:
    from . import text

    words = text.words()
    for prompt in prompts:
        text.parse(prompt, words)


def _check_reference(name: str, model: str, reference: str | None) -> None:
    from .reference import image_files, ships_features

    if reference is not None:
        image_files(reference)
    elif not ships_features(name, model):
        raise ValueError(f"{name} compares with real images: give reference=FOLDER of them")


def _check_fid(model: str, reference: str | None) -> None:
    if find_spec("torch_fidelity") is None or find_spec("torchvision") is None:
        raise ValueError("fid needs Inception from torch-fidelity and torchvision: pip install 'mergekit-diff[fid]'")
    from .sets import inception_file

    if not inception_file().is_file():
        raise ValueError(f"fid needs the weights of Inception in {inception_file()}")
    _check_reference("fid", model, reference)
