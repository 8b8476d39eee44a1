"""Models by name, folder or hub id: which there are, loading them, and the devices that they run on."""

from .catalog import MODELS, Model, check_model, check_prompted, check_task, identity, task_of
from .devices import check_device, processes, resolve_device, shared_cores, use_threads
from .loading import SCHEDULERS, load_pipeline, set_scheduler

__all__ = [
    "MODELS",
    "SCHEDULERS",
    "Model",
    "check_device",
    "check_model",
    "check_prompted",
    "check_task",
    "identity",
    "load_pipeline",
    "processes",
    "resolve_device",
    "set_scheduler",
    "shared_cores",
    "task_of",
    "use_threads",
]
