"""Training-free token merging in diffusion models."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .applying import attach, merging
    from .components import (
        LayerContext,
        MergeStrategy,
        RatioSchedule,
        SimilarityMetric,
        WindowSchedule,
    )
    from .plan import MergePlan, Plan
    from .ready import ReadyPlan
    from .reductions import Reduction
    from .registry import make, names, register
    from .report import MergeReport
    from .session import MergeSession
    from .sites import Layout, Rows, Site, register_family
    from .soft import SoftPlan

_HOMES = {
    "applying": "attach merging",
    "components": "LayerContext MergeStrategy RatioSchedule SimilarityMetric WindowSchedule",
    "plan": "MergePlan Plan",
    "ready": "ReadyPlan",
    "reductions": "Reduction",
    "registry": "make names register",
    "report": "MergeReport",
    "session": "MergeSession",
    "sites": "Layout Rows Site register_family",
    "soft": "SoftPlan",
}
_HOME = {name: module for module, line in _HOMES.items() for name in line.split()}

__version__ = "0.1.0"
__all__ = [
    "LayerContext",
    "Layout",
    "MergePlan",
    "MergeReport",
    "MergeSession",
    "MergeStrategy",
    "Plan",
    "RatioSchedule",
    "ReadyPlan",
    "Reduction",
    "Rows",
    "SimilarityMetric",
    "Site",
    "SoftPlan",
    "WindowSchedule",
    "attach",
    "make",
    "merging",
    "names",
    "register",
    "register_family",
]


def __getattr__(name: str) -> object:
    """Public names are resolved when they are first used, so that importing the package imports no torch."""
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
