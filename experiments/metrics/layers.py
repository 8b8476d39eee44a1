"""The error of single layers, recorded while an output is made."""

import math
from collections.abc import Mapping, Sequence


def error(layers: Mapping[str, Sequence[float | None]], _: object = None) -> float:
    """The mean over sites and steps; NaN if nothing was merged.

    Args:
        layers: by site the error at every step, as :meth:`mergekit_diff.experiments.run.layers.LayerErrors.by_site` gives it.

    >>> error({"down": [0.25, None], "up": [0.5, 0.75]})
    0.5
    """
    errors = [value for steps in layers.values() for value in steps if value is not None]
    return math.fsum(errors) / len(errors) if errors else math.nan
