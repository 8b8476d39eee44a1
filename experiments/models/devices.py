"""Devices and threads: what a study or a measurement asks for, and whether this machine has it."""


def resolve_device(device: str) -> str:
    """The device that is meant: "auto" is CUDA if there is one, else the CPU."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def check_device(device: str, devices: int = 1) -> None:
    """Refuse a device that this machine does not have, before any weight is loaded.

    Args:
        device: "auto", "cpu", "cuda" or "mps".
        devices: how many of them are needed.

    Raises:
        ValueError: there are none or too few; the message is one line.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: expected a device of this machine, got cuda, but torch finds no CUDA device")
    if resolve_device(device) == "cuda" and devices > torch.cuda.device_count():
        raise ValueError(
            f"devices: expected at most {torch.cuda.device_count()}, the CUDA devices that torch finds, got {devices}"
        )


def use_threads(threads: int | None) -> None:
    """Let torch use this many threads; None keeps torch's own choice."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
