"""Linear probe of a vision transformer: what a classifier can read off its features, unmerged and merged."""

from .comparison import Probed, compare
from .labelled import Labelled, cifar10
from .ridge import Ridge, fit_ridge

__all__ = ["Labelled", "Probed", "Ridge", "cifar10", "compare", "fit_ridge"]
