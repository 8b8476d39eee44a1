"""Tiny random vision transformers of transformers."""

import torch
import transformers
from tiny_family import H, W, randn, tiny

PATCH = 2
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": PATCH,
}
SQUARE = {"image_size": 10 * PATCH}  # positions are interpolated to the grid
EXACT = {"image_size": (H * PATCH, W * PATCH)}


def _call(kind, **settings):
    """A model whose weights are large enough that attention is not uniform, and two images."""
    config = getattr(transformers, f"{kind.removesuffix('Model')}Config")(**SHAPE, **settings)
    model = getattr(transformers, kind)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    return model, {"pixel_values": randn(2, 3, H * PATCH, W * PATCH)}


@tiny("ViT, DeiT, DINOv2, CLIP's vision tower", (H, W), joint=True)
def vit():
    return _call("ViTModel", **EXACT)


@tiny("ViT, DeiT, DINOv2, CLIP's vision tower", (H, W), joint=True)
def deit():
    return _call("DeiTModel", **EXACT)


@tiny("ViT, DeiT, DINOv2, CLIP's vision tower", (H, W), joint=True)
def dinov2():
    return _call("Dinov2Model", **SQUARE)


@tiny("ViT, DeiT, DINOv2, CLIP's vision tower", (H, W), joint=True)
def dinov2_registers():
    return _call("Dinov2WithRegistersModel", **SQUARE, num_register_tokens=3)


@tiny("ViT, DeiT, DINOv2, CLIP's vision tower", (H, W), joint=True)
def clip_vision():
    model, inputs = _call("CLIPVisionModel", **SQUARE)
    return model, inputs | {"interpolate_pos_encoding": True}
