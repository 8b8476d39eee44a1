"""Measures of images and videos: against the base, against the caption, or as a set against real images.

Closeness to the base is fidelity, which is not the same as quality. Nothing heavy is imported before a metric is called.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from . import networks
from .available import check_available

__all__ = ["BY_FEATURES", "Metric", "as_json", "check_available", "features_of", "metrics", "set_values"]

BY_FEATURES = ("feature", "text", "kid")
"""The metrics that read the features of one network, which are then kept with the rows."""
OF_FEATURES: dict[str, Any] = {"tasks": ("features",), "whole": True}
OF_TEXT: dict[str, Any] = {"of": "single", "tasks": ("text",), "whole": True}
SCALES = ("picture", "video", "field")
"""The tasks whose outputs are values on the scale of 8-bit images."""


@dataclass(frozen=True)
class Metric:
    """A number for an output of a task, such as an image, or for a set of outputs.

    Args:
        label: what tables call it.
        better: "higher" or "lower".
        measure: called with (3, H, W) uint8 images: (image, base) for "pair", (image, prompt) for "single"; for "set" as
            :func:`set_values`.
        unit: of the number, may be empty.
        of: "pair", "single", "set", or "layers": of what :mod:`mergekit_diff.experiments.run.layers` records.
        by: how a cell is compared with its control: by "difference", or by "ratio", for distances above 0 whose size differs from
            prompt to prompt by a factor.
        made_by: the network that computes the number and where it is from; empty if none does.
        tasks: names of the tasks whose outputs it can measure.
        whole: whether ``measure`` takes what the task gives; otherwise a video, (F, 3, H, W), has the mean over its frames.
    """

    label: str
    better: str
    measure: Callable[..., Any]
    unit: str = ""
    of: str = "pair"
    by: str = "difference"
    made_by: str = ""
    tasks: tuple[str, ...] = ("picture", "video")
    whole: bool = False

    def value(self, output: Any, other: Any) -> float:  # noqa: ANN401
        """The number of one output, of a "pair" or "single" metric.

        Args:
            output: as its task gives it, (3, H, W) uint8 for an image, (F, 3, H, W) for a video.
            other: the base, as ``output``, or the prompt.

        Raises:
            ValueError: the videos do not have equally many frames.
        """
        if self.whole or output.dim() == 3:
            return self.measure(output, other)
        others = [other] * len(output) if self.of == "single" else other
        if len(output) != len(others):
            raise ValueError(f"{self.label}: expected as many frames as the base has, {len(others)}; got {len(output)}")
        return math.fsum(self.measure(*frames) for frames in zip(output, others, strict=True)) / len(output)


def metrics() -> dict[str, Metric]:
    """Every metric by its name."""
    return {
        "psnr": Metric("PSNR", "higher", _at("fidelity:psnr"), "dB", whole=True, tasks=SCALES),
        "relief": Metric("PSNR of the relief", "higher", _at("fidelity:relief"), "dB", tasks=("field",), whole=True),
        "ssim": Metric("SSIM", "higher", _at("fidelity:ssim"), tasks=SCALES),
        "feature": Metric("feature distance", "lower", _at("feature:distance"), by="ratio", made_by=networks.efficientnet()),
        "lpips": Metric("LPIPS", "lower", _at("lpips:distance"), by="ratio", made_by=networks.alexnet()),
        "detail": Metric("detail likeness", "higher", _at("fidelity:detail"), tasks=SCALES),
        "background": Metric("background change", "lower", _at("fidelity:background")),
        "flicker": Metric("flicker", "lower", _at("motion:flicker"), by="ratio", tasks=("video",), whole=True),
        "layer": Metric("layer error", "lower", _at("layers:error"), of="layers", by="ratio", tasks=SCALES, whole=True),
        "text": Metric("emoji text score", "higher", _at("text:score"), of="single", made_by=networks.text_map()),
        "clip": Metric("CLIP score", "higher", _at("clip:score"), of="single", made_by=networks.clip()),
        "perplexity": Metric("perplexity", "lower", _at("language:perplexity"), by="ratio", **OF_TEXT),
        "recall": Metric("recall of a fact", "higher", _at("language:recall"), **OF_TEXT),
        "agreement": Metric("agreement", "higher", _at("language:agreement"), tasks=("text",), whole=True),
        "cache": Metric("keys kept", "lower", _at("language:cache"), **OF_TEXT),
        "cosine": Metric("cosine of features", "higher", _at("vision:cosine"), **OF_FEATURES),
        "saliency": Metric("saliency correlation", "higher", _at("vision:saliency"), **OF_FEATURES),
        "overlap": Metric("saliency overlap", "higher", _at("vision:overlap"), **OF_FEATURES),
        "kid": Metric("KID", "lower", _at("sets:kid"), of="set", made_by=networks.efficientnet()),
        "fid": Metric("FID", "lower", _at("sets:fid"), of="set", made_by=networks.inception()),
    }


def set_values(name: str, images: Any, reference: Any) -> dict[str, Any]:  # noqa: ANN401
    """Measure a set of images against a reference.

    Args:
        name: "kid" or "fid".
        images: (n, 3, H, W) uint8, or their features (n, d); for videos (n, F, 3, H, W), or features (n, F, d).
        reference: (m, 3, H, W) uint8, or features (m, d), such as :func:`.reference.features` gives.

    Returns:
        value, low and high (95% bootstrap over images or videos; the reference stays fixed), n, reference_n, floor (mean size of
        the value between two halves of the reference: what chance alone gives) and made_by.

    Raises:
        ValueError: a set is too small to have a variance.
    """
    metric = metrics()[name]
    return metric.measure(images, reference) | {"made_by": metric.made_by}


def features_of(output: Any) -> str:  # noqa: ANN401
    """The features of a (3, H, W) uint8 image, or of every frame of (F, 3, H, W), as a row keeps them, see :mod:`.projection`."""
    from .feature import single
    from .projection import encode

    return encode([single(image).numpy() for image in output.reshape(-1, *output.shape[-3:])])


def as_json(value: float) -> float | str:
    """JSON has no infinity: it is written as text that ``float`` reads back."""
    return value if math.isfinite(value) else str(value)


def _at(place: str) -> Callable[..., Any]:
    """A function of this package that is imported when it is called, so that metrics can be listed without torch."""
    module, function = place.split(":")

    def measure(*args: Any) -> Any:  # noqa: ANN401
        return getattr(import_module(f".{module}", __name__), function)(*args)

    return measure
