"""Image features small enough to be kept with every row, so that sets can be compared long after the images are gone.

A random projection, the same everywhere, keeps inner products and distances up to a small error. Johnson and Lindenstrauss
(1984).
"""

import base64
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH = 256
Array = NDArray[np.float64]


def project(features: Any) -> Array:  # noqa: ANN401
    """(..., d) features, an array or a tensor, to (..., 256), by the same matrix everywhere; needs d of at least 256.

    >>> project(np.ones((2, 1280))).shape
    (2, 256)
    """
    array = np.asarray(features, dtype=np.float64)
    return array @ _matrix(array.shape[-1])


def encode(features: Any) -> str:  # noqa: ANN401
    """(d) features of an image, or (F, d) of frames, as text for their row: 256 numbers each in half precision, in base64."""
    return base64.b64encode(project(features).astype("<f2").tobytes()).decode()


def decode(text: str) -> Array:
    """The (F, 256) projected features that :func:`encode` wrote; F is 1 for an image.

    Raises:
        ValueError: the text is something else.
    """
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f2").astype(np.float64)
    except ValueError:
        values = np.empty(0)
    if len(values) == 0 or len(values) % WIDTH:
        raise ValueError(f"expected {WIDTH} half-precision numbers for every frame in base64 as features, got {text[:20]!r}")
    return values.reshape(-1, WIDTH)


@cache
def _matrix(width: int) -> Array:
    """(width, 256) with orthonormal columns, scaled to keep the mean square of a random vector's numbers."""
    draw = np.random.default_rng(0).standard_normal((width, WIDTH))
    return np.linalg.qr(draw).Q
