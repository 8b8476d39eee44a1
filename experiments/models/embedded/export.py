"""Stage ``export``: the trained modules as an ordinary pipeline folder in fp16."""

from pathlib import Path

import torch

from .denoiser import Denoiser

MODEL = Path(__file__).parent / "emoji"


def export(folder: Path) -> Path:
    """Write the mean weights of ``folder``'s last checkpoint to the model folder of the package; returns it.

    Raises:
        FileNotFoundError: the denoiser was never trained in ``folder``.
    """
    state = torch.load(folder / "checkpoints" / "denoiser" / "last.ckpt", weights_only=True)
    module = Denoiser(folder, steps=state["global_step"], small_steps=0)
    module.load_state_dict(state["state_dict"])
    pipe = module.pipeline().to(torch.float16)
    pipe.save_pretrained(MODEL, safe_serialization=True)
    return MODEL
