"""Statistics of what is right or wrong: a share, and two classifiers on the same images."""

import math

NORMAL = 1.959964
"""97.5% quantile of the normal distribution."""


def wilson(right: int, n: int) -> tuple[float, float]:
    """95% score interval of a share. Wilson (1927).

    >>> [round(end, 3) for end in wilson(304, 400)]
    [0.716, 0.799]
    """
    from scipy import stats

    interval = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(lost: int, gained: int) -> float:
    """Two-sided exact p of "two classifiers are right equally often", from images that one alone has right. McNemar (1947).

    Args:
        lost: images that the first alone has right.
        gained: images that the second alone has right.

    >>> mcnemar(5, 5), mcnemar(6, 0), mcnemar(0, 0)
    (1.0, 0.03125, 1.0)
    """
    from scipy import stats

    return float(stats.binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0


def paired_difference(lost: int, gained: int, n: int) -> tuple[float, float]:
    """95% interval of the difference of two shares of the same ``n`` images. Agresti and Min (2005), Statistics in Medicine 24.

    Half an image is added to each cell of the table of both classifiers, so that it has a width even if none was lost or gained.

    Args:
        lost: images that the first classifier alone has right.
        gained: images that the second alone has right.
        n: all images.

    >>> [round(end, 4) for end in paired_difference(150, 86, 1600)]
    [-0.0587, -0.0212]
    """
    total, change = n + 2, gained - lost
    half = NORMAL * math.sqrt(lost + gained + 1 - change**2 / total) / total
    return change / total - half, change / total + half
