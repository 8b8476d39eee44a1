"""Statistics of few paired observations: bootstrap intervals, sign-flip tests, Holm's correction for many tests."""

import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 9999
FEWEST = 6


def bootstrap(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95% interval of independent observations. Efron (1987), bias-corrected and accelerated bootstrap.

    On normal samples it covered the true mean in 95% of cases for 64 observations, 92% for 16, 89% for 8 and 81% for 4; with
    fewer than 6 there is no interval.
    """
    from scipy import stats

    observed = np.array(values, dtype=float)
    if not len(observed):
        return math.nan, math.nan, math.nan
    mean = float(observed.mean())
    if len(observed) < FEWEST or not np.isfinite(observed).all():
        return mean, math.nan, math.nan
    if np.ptp(observed) <= 1e-12 * np.abs(observed).max():
        return mean, mean, mean
    method = "BCa" if len(set(values)) > 2 else "percentile"  # BCa is undefined for two distinct values
    result = stats.bootstrap((observed,), np.mean, n_resamples=RESAMPLES, method=method, rng=np.random.default_rng(0))
    return mean, float(result.confidence_interval.low), float(result.confidence_interval.high)


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p of "differences are symmetric around 0"; exact for few observations. Fisher (1935)."""
    from scipy import stats

    if not np.any(differences):
        return 1.0
    test = stats.permutation_test(
        (np.array(differences),), np.mean, permutation_type="samples", n_resamples=RESAMPLES, rng=np.random.default_rng(0)
    )
    return float(test.pvalue)


def least_p(n: int, two_sided: bool = True) -> float:
    """The smallest p that a test by flipping the signs of ``n`` observations can give; the true p may be smaller still.

    Args:
        n: observations.
        two_sided: whether each side is counted and the smaller doubled, as in :func:`sign_flip`.
    """
    sides = 2 if two_sided else 1
    return 2 / 2**n if 2**n <= RESAMPLES else sides / (RESAMPLES + 1)


def holm(ps: Sequence[float]) -> list[float]:
    """The p values, corrected for how many there are. Holm (1979)."""
    corrected, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(np.argsort(ps)):
        largest = max(largest, min(1.0, ps[i] * (len(ps) - rank)))
        corrected[i] = largest
    return corrected


def detectable(differences: Sequence[float], n: int) -> float:
    """The smallest mean difference that ``n`` prompts show in four of five studies, estimated from the differences of a pilot.

    Two-sided test at 5%, power 80%, normal approximation: 2.8 standard errors.
    """
    return 2.8 * float(np.std(differences, ddof=1)) / math.sqrt(n)
