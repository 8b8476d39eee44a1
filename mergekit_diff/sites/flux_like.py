"""Image transformers of diffusers that are built as Flux is: blocks of two streams, then blocks of one sequence."""

from collections.abc import Iterable
from dataclasses import replace

from . import Model, Rows, Site, listed, parts, register_family
from .image import JOINT, flux, patches, text_of_each

register_family("LongCatImageTransformer2DModel", "OvisImageTransformer2DModel", time="t/1000", guidance="calls")(flux)
register_family("BriaTransformer2DModel")(flux)


@register_family("BriaFiboTransformer2DModel")
def bria_fibo(model: Model) -> Iterable[Site]:
    """Bria Fibo: a mask says which tokens attend to which."""
    names = "attention_mask", "joint_attention_kwargs"
    masks = tuple(Rows(name, axis, batched=True) for name in names for axis in (2, 3))
    for site in flux(model):
        yield replace(site, rows=(*site.rows, *masks), apart=text_of_each(site.name))


@register_family("HunyuanImageTransformer2DModel", guidance="calls")
def hunyuan_image(model: Model) -> Iterable[Site]:
    """HunyuanImage 2.1 and its refiner, which has a third axis; text is behind the image in both kinds of blocks."""
    layout = patches(*model.config.patch_size)
    for name, block in listed(model, "transformer_blocks", "single_transformer_blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn"], feed_forward=["ff", "proj_mlp"]),
            frame=model, layout=layout, reads=("hidden_states",),
            rows=(Rows("image_rotary_emb", 0), Rows("attention_mask", 3, batched=True)),
            key_value=None, joint=True, rotary=True, without=JOINT,
        )  # fmt: skip
