"""What a picture is compared with its base by. Closeness to the base is fidelity, which is not the same as quality."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """A number for a picture and its base.

    Args:
        label: what the tables call it.
        better: "higher" or "lower".
        measure: called with two (3, H, W) uint8 pictures.
        unit: of the number, may be empty.
    """

    label: str
    better: str
    measure: Callable[[Tensor, Tensor], float]
    unit: str = ""


def metrics() -> dict[str, Metric]:
    """Every metric by its name."""
    from . import feature, fidelity

    return {
        "psnr": Metric("PSNR", "higher", fidelity.psnr, "dB"),
        "ssim": Metric("SSIM", "higher", fidelity.ssim),
        "feature": Metric("feature distance", "lower", feature.distance),
    }


def as_json(value: float) -> float | str:
    """JSON has no infinity: it is written as a text that ``float`` reads back."""
    return value if math.isfinite(value) else str(value)
