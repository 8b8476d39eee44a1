"""Probes of one model, unmerged and merged, on the same images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mergekit_diff import MergeStrategy

from .class_token import BATCH, class_features, merged_features
from .labelled import Labelled
from .ridge import Ridge, fit_ridge

UNMERGED, MERGED, PIXELS = "unmerged", "merged", "pixels"


@dataclass(frozen=True)
class Probed:
    """A probe and how it did on the test images.

    Args:
        name: of what computed the features of the test images.
        fitted: features that the probe was fitted to: "unmerged", "merged" or "pixels".
        granted: ratio of the session; 0 without one.
        penalty: of the ridge regression.
        right: (n) bool, for every test image whether its class was found.
    """

    name: str
    fitted: str
    granted: float
    penalty: float
    right: Tensor


def compare(
    model: Any,  # noqa: ANN401
    train: Labelled,
    test: Labelled,
    strategies: Mapping[str, MergeStrategy],
    *,
    refit: bool = False,
    batch: int = BATCH,
    advance: Callable[[], None] = lambda: None,
) -> list[Probed]:
    """A probe of raw pixels, one of the unmerged model, and for every strategy one or two of the merged model.

    Args:
        model: as the task ``features`` calls it.
        train: images that probes are fitted to.
        test: other images, the same for every probe.
        strategies: how it merges, by the name that the table shows. The probe is that of the unmerged model, as where merging is
            switched on afterwards.
        refit: with a second probe, fitted to merged features of the training images.
        batch: images of a call.
        advance: called after every image, :func:`passes` times in all.

    Raises:
        RuntimeError: nothing merged.
    """
    pixels = fit_ridge(train.images.flatten(1), train.labels)
    unmerged = fit_ridge(class_features(model, train.images, advance, batch), train.labels)
    probed = [
        _probed(PIXELS, PIXELS, 0.0, pixels, test.images.flatten(1), test),
        _probed(UNMERGED, UNMERGED, 0.0, unmerged, class_features(model, test.images, advance, batch), test),
    ]
    for name, strategy in strategies.items():
        x, granted = merged_features(model, strategy, test.images, advance, batch)
        probed.append(_probed(name, UNMERGED, granted, unmerged, x, test))
        if refit:
            own = fit_ridge(merged_features(model, strategy, train.images, advance, batch)[0], train.labels)
            probed.append(_probed(name, MERGED, granted, own, x, test))
    return probed


def passes(train: int, test: int, strategies: int, refit: bool) -> int:
    """How many images go through the model in :func:`compare`."""
    return train + test + strategies * (test + train * refit)


def _probed(name: str, fitted: str, granted: float, ridge: Ridge, x: Tensor, test: Labelled) -> Probed:
    return Probed(name, fitted, granted, ridge.penalty, ridge(x) == test.labels)
