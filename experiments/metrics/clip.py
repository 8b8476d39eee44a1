"""Agreement of an image with its prompt by CLIP, if its weights are on this machine."""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .networks import clip_name

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's own training images, red, green and blue
STD = (0.26862954, 0.26130258, 0.27577711)


@torch.no_grad()
def score(image: Tensor, prompt: str) -> float:
    """CLIP score of a (3, H, W) uint8 image: 100 times the cosine with the prompt, at least 0.

    Hessel et al. (2021), arXiv 2104.08718, with the usual weight of 100 for generated images, not their 2.5.
    The model is a folder or hub id in MERGEKIT_DIFF_CLIP. Prompts are truncated to the model's length, 77 tokens.
    """
    model, tokenizer = _model(clip_name())
    length = model.config.text_config.max_position_embeddings
    tokens = tokenizer(prompt, truncation=True, max_length=length, return_tensors="pt")
    pixels = prepare(image, model.config.vision_config.image_size)
    out = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, pixel_values=pixels)
    return max(100 * float(F.cosine_similarity(out.image_embeds, out.text_embeds)), 0.0)


def prepare(image: Tensor, side: int) -> Tensor:
    """(3, H, W) uint8 to (1, 3, side, side), as CLIP's image processor does; that one needs torchvision in transformers 5."""
    height, width = image.shape[1:]
    scale = side / min(height, width)
    size = (side, int(width * scale)) if height <= width else (int(height * scale), side)
    x = F.interpolate(image[None].float(), size=size, mode="bicubic", antialias=True, align_corners=False)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    x = x.clamp(0, 255).round()[..., top : top + side, left : left + side] / 255
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@cache
def _model(name: str) -> tuple[Any, Any]:
    from transformers import AutoTokenizer, CLIPModel

    here: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    model = CLIPModel.from_pretrained(name, use_safetensors=True, **here)
    return model.eval(), AutoTokenizer.from_pretrained(name, **here)
