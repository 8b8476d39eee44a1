"""Tiny random image transformers that are built as Flux is."""

import diffusers
import torch
from tiny_family import WORDS, H, W, changed, randn, tiny
from tiny_image import ids_of

SHAPE = {"in_channels": 4, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
FLUX = (H, W)


def _inputs(t, references=0):
    ids = torch.cat([ids_of(image) for image in range(1 + references)])
    return {
        "hidden_states": randn(2, len(ids), 4),
        "encoder_hidden_states": randn(2, WORDS, 32),
        "timestep": torch.full((2,), t),
        "img_ids": ids,
        "txt_ids": torch.zeros(WORDS, 3),
    }


@tiny("Bria 3.2", FLUX, joint=True, rows=("image_rotary_emb",))
def bria(t=500.0):
    return diffusers.BriaTransformer2DModel(joint_attention_dim=32, axes_dims_rope=[4, 4, 8], **SHAPE), _inputs(t)


@tiny("Bria Fibo", FLUX, joint=True, rows=("image_rotary_emb", "attention_mask", "joint_attention_kwargs"))
def bria_fibo(t=500.0):
    """Every token attends to those of the image and to its row's own text."""
    model = diffusers.BriaFiboTransformer2DModel(joint_attention_dim=32, text_encoder_dim=16, axes_dims_rope=[4, 4, 8], **SHAPE)
    seen = torch.ones(2, WORDS + H * W, dtype=torch.bool)
    seen[1, 4:WORDS] = False
    mask = (seen[:, :, None] & seen[:, None]) | torch.eye(WORDS + H * W, dtype=torch.bool)
    layers = [randn(2, WORDS, 16, seed=seed) for seed in (1, 2)]
    return model, _inputs(t) | {"text_encoder_layers": layers, "joint_attention_kwargs": {"attention_mask": mask[:, None]}}


@tiny("LongCat-Image", FLUX, joint=True, rows=("image_rotary_emb",))
def longcat_image(t=0.5, references=0):
    model = diffusers.LongCatImageTransformer2DModel(joint_attention_dim=32, axes_dims_rope=[4, 4, 8], **SHAPE)
    return model, _inputs(t, references)


@tiny("LongCat-Image", FLUX, joint=True, rows=("image_rotary_emb",))
def longcat_image_edit(t=0.5):
    return longcat_image(t, references=1)


@tiny("Ovis-Image", FLUX, joint=True, rows=("image_rotary_emb",))
def ovis_image(t=0.5):
    return diffusers.OvisImageTransformer2DModel(joint_attention_dim=32, axes_dims_rope=(4, 4, 8), **SHAPE), _inputs(t)


@tiny("HunyuanImage 2.1", FLUX, joint=True, rows=("image_rotary_emb", "attention_mask"))
def hunyuan_image(t=500.0):
    model = diffusers.HunyuanImageTransformer2DModel(
        out_channels=4, num_refiner_layers=1, text_embed_dim=32, rope_axes_dim=(8, 8), **SHAPE
    )
    mask = torch.ones(2, WORDS)
    mask[1, 4:] = 0
    names = ("encoder_hidden_states", "timestep")
    inputs = {name: value for name, value in _inputs(t).items() if name in names}
    return model, {"hidden_states": randn(2, 4, H, W), "encoder_attention_mask": mask} | inputs


@tiny("HunyuanImage 2.1", (1, H, W), joint=True, rows=("image_rotary_emb", "attention_mask"))
def hunyuan_image_refiner(t=500.0):
    """A third axis."""
    model, inputs = hunyuan_image(t)
    deep = changed(model, patch_size=(1, 1, 1), rope_axes_dim=(4, 4, 8))
    return deep, inputs | {"hidden_states": randn(2, 4, 1, H, W)}
