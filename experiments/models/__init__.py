"""Models by name, folder or hub id: which there are, loading them, and the devices that they run on."""

from .catalog import MODELS, Model, check_model, identity, task_of
from .devices import check_device, resolve_device, use_threads
from .loading import SCHEDULERS, load_pipeline, set_scheduler

__all__ = [
    "MODELS",
    "SCHEDULERS",
    "Model",
    "check_device",
    "check_model",
    "identity",
    "load_pipeline",
    "resolve_device",
    "set_scheduler",
    "task_of",
    "use_threads",
]
