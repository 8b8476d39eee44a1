"""Models by name, folder or hub id."""

from .loading import (
    NAMES,
    SCHEDULERS,
    check_device,
    check_model,
    identity,
    load_pipeline,
    resolve_device,
    set_scheduler,
)

__all__ = [
    "NAMES",
    "SCHEDULERS",
    "check_device",
    "check_model",
    "identity",
    "load_pipeline",
    "resolve_device",
    "set_scheduler",
]
