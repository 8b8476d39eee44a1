"""Image transformers of diffusers in which every block holds the image, alone or in one sequence with the text."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from . import Layout, Model, Rows, Site, listed, parts, register_family
from .image import JOINT, patches
from .image_joint import behind_text

TOGETHER: dict[str, str] = dict.fromkeys(
    ("self_attention", "cross_attention"), "its two attentions share the map of their outputs"
)
MAPS = {"feed_forward": "its feed-forward is three maps of the block itself"}


def _behind(ids: Tensor) -> Layout:
    """The grid of (N, axes) positions whose last two axes are rows and columns; the tokens are the last of their sequence."""
    height, width = (ids[:, -2:].amax(0) - ids[:, -2:].amin(0) + 1).tolist()
    return Layout((int(height), int(width)), start=-len(ids))


def by_position_ids(arguments: Mapping[str, Any]) -> Layout:
    """Krea 2: a position (tokens, 3) for the text and then the image."""
    return _behind(arguments["position_ids"][-arguments["hidden_states"].shape[1] :])


def by_indicator(arguments: Mapping[str, Any]) -> Layout:
    """Ideogram 4: (B, tokens) says whether a token is padding, text or, in the end, of the image."""
    indicator = arguments["indicator"]
    return _behind(arguments["position_ids"][0, indicator[0] == indicator[0, -1]])


@register_family("Krea2Transformer2DModel", time="t/1000", guidance="calls")
def krea2(model: Model) -> Iterable[Site]:
    """Krea 2: text, image."""
    for name, block in listed(model, "transformer_blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn"], feed_forward=["ff"]),
            frame=model, layout=by_position_ids, reads=("position_ids", "hidden_states"),
            rows=(Rows("image_rotary_emb", 0), Rows("attention_mask", 3, batched=True)),
            key_value=None, joint=True, rotary=True, without=JOINT,
        )  # fmt: skip


@register_family("Ideogram4Transformer2DModel", time="1-t/1000", guidance="calls")
def ideogram4(model: Model) -> Iterable[Site]:
    """Ideogram 4: padding, text, image; a mask keeps padding apart."""
    masks = tuple(Rows("attention_mask", axis, batched=True) for axis in (2, 3))
    for name, block in listed(model, "layers"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attention"], feed_forward=["feed_forward"]),
            frame=model, layout=by_indicator, reads=("position_ids", "indicator"),
            rows=(Rows("image_rotary_emb", 1, batched=True), *masks),
            key_value=None, joint=True, rotary=True, without=JOINT,
        )  # fmt: skip


@register_family("OmniGenTransformer2DModel", time="1-t/1000", guidance="cond-uncond")
def omnigen(model: Model) -> Iterable[Site]:
    """OmniGen: text and images to go by, a token for the time, the image; a mask says what attends to what."""
    masks = tuple(Rows("attention_mask", axis, batched=True) for axis in (2, 3))
    for name, block in listed(model, "layers"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["self_attn"], feed_forward=["mlp"]),
            frame=model, layout=behind_text(model.config.patch_size), reads=("hidden_states",),
            rows=(Rows("image_rotary_emb", 0), *masks),
            key_value=None, joint=True, rotary=True, without=JOINT,
        )  # fmt: skip


@register_family("LuminaNextDiT2DModel", time="1-t/1000", guidance="cond-uncond")
def lumina_next(model: Model) -> Iterable[Site]:
    """Lumina-Next: the image alone, and cross-attention that rotates the image's queries too."""
    for name, block in listed(model, "layers"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attn1"], cross_attention=["attn2"], feed_forward=["feed_forward"]),
            frame=model, layout=patches(model.patch_size, model.patch_size), reads=("hidden_states",),
            rows=(Rows("image_rotary_emb", 1, batched=True), Rows("attention_mask", 1, batched=True)),
            passes=frozenset({"encoder_hidden_states", "encoder_mask"}),
            key_value=None, rotary=True, without=TOGETHER,
        )  # fmt: skip


@register_family("PRXTransformer2DModel", time="t/1000")
def prx(model: Model) -> Iterable[Site]:
    """PRX: the image alone, whose queries also meet keys of the text, in front."""
    for name, block in listed(model, "blocks"):
        yield Site(
            name,
            block,
            roles=parts(block, self_attention=["attention"]),
            frame=model, layout=behind_text(model.patch_size), reads=("hidden_states",),
            rows=(Rows("image_rotary_emb", 2, batched=True),),
            passes=frozenset({"encoder_hidden_states", "attention_mask"}),
            key_value=None, more_keys=True, joint=True, rotary=True, without=JOINT | MAPS,
        )  # fmt: skip
