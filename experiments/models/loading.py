"""Loads diffusion pipelines and their schedulers. Only safetensors are read, and no code that comes with a model is run."""

from typing import Any

from .catalog import check_model
from .devices import resolve_device
from .fetched import FETCHED, checked
from .folder import one_line
from .quiet import quiet

SCHEDULERS = {
    "ddim": ("DDIMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),  # as Stable Diffusion uses it; Runge-Kutta steps would need many more
    "euler": ("EulerDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}


def load_pipeline(name: str, device: str = "auto", dtype: str = "float32", scheduler: str | None = None) -> Any:  # noqa: ANN401
    """A pipeline, or what stands for one in the model's task, ready to be called.

    Args:
        name: of ``mergekit-diff models``, a pipeline folder, or a hub id.
        device: "auto" takes CUDA if there is one, else the CPU.
        dtype: "float32", "float16" or "bfloat16".
        scheduler: "ddim", "pndm", "euler", "heun", "dpm++" or "lcm"; None keeps the model's own.

    Raises:
        ValueError: the model is missing or corrupt; the message is one line.
    """
    if name in FETCHED:
        return FETCHED[name].load(checked(FETCHED[name].pin), dtype).to(resolve_device(device))
    model = check_model(name)
    import torch
    from diffusers import DiffusionPipeline

    with quiet():
        try:
            data_only = {"use_safetensors": True, "trust_remote_code": False}
            pipe = DiffusionPipeline.from_pretrained(model, torch_dtype=getattr(torch, dtype), **data_only)
        except Exception as error:
            raise ValueError(f"the model {name!r} cannot be loaded: {one_line(error)}") from error
    pipe.set_progress_bar_config(disable=True)
    _set_default_size(pipe)
    if scheduler is not None:
        set_scheduler(pipe, scheduler)
    return pipe.to(resolve_device(device))


def set_scheduler(pipe: Any, name: str) -> None:  # noqa: ANN401
    """Give a pipeline another scheduler with the same noise schedule."""
    import diffusers

    cls, settings = SCHEDULERS[name]
    with quiet():
        pipe.scheduler = getattr(diffusers, cls).from_config(pipe.scheduler.config, **settings)


def _set_default_size(pipe: Any) -> None:  # noqa: ANN401
    """Let a FluxPipeline default to the size of its autoencoder; diffusers 0.42 assumes 128 latents a side for every model."""
    if type(pipe).__name__ == "FluxPipeline":
        pipe.default_sample_size = pipe.vae.config.sample_size // pipe.vae_scale_factor
