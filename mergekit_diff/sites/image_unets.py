"""U-Nets of diffusers whose attention takes a whole image (B, C, h, w)."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

from torch import Tensor, nn

from . import Layout, Model, Site, register_family

Part = tuple[int, str, str, Model]
"""The number of times that the resolution has been halved, the stage, a name, and the module."""
Found = tuple[int, str, str, Model, nn.Module, str]
"""The same of a block, with its attention and the role of that."""
WHOLE = "its attention takes a whole image and gives one back"
BLOCK = {"block": "its block takes a whole image"}
TOGETHER = {"cross_attention": "text and image attend in one self-attention"}


def tokens(x: Tensor) -> Tensor:
    """(B, C, h, w) to (B, h * w, C)."""
    return x.flatten(2).transpose(1, 2)


def of_image(place: Literal["alone", "front", "end"]) -> Callable[[Mapping[str, Any]], Layout]:
    """Reads the grid of a block's own first argument (B, C, h, w), whose tokens may have text beside them."""

    def layout(arguments: Mapping[str, Any]) -> Layout:
        height, width = next(iter(arguments.values())).shape[2:]
        return Layout((height, width), start={"alone": None, "front": 0, "end": -height * width}[place])

    return layout


LAYOUTS = {place: of_image(place) for place in ("alone", "front", "end")}


def sites_of(found: Iterable[Found], place: str, without: Mapping[str, str]) -> Iterator[Site]:
    """A site for every block; a level is a resolution that has at least one.

    Args:
        found: the blocks, in the order in which they run.
        place: where an image's tokens are among the keys: "alone", or in "front" or at the "end" of those of the text.
        without: reasons why these blocks do not offer roles.
    """
    found = list(found)
    levels = sorted({factor for factor, *_ in found})
    for factor, stage, name, block, attention, role in found:
        yield Site(
            name,
            block,
            roles={role: attention},
            frame=block, layout=LAYOUTS[place], tokens=tokens, stage=stage, level=levels.index(factor),
            key_value=None, more_keys=place != "alone", joint=place != "alone", without=without,
        )  # fmt: skip


def attentions(parts: Iterable[Part]) -> Iterator[Site]:
    """Kandinsky 2, and U-Nets without text: attentions that are blocks of their own; a norm is over all tokens of an image."""
    found = [
        (factor, stage, f"{prefix}.attentions.{i}", attention, attention, "self_attention")
        for factor, stage, prefix, part in parts
        for i, attention in enumerate(getattr(part, "attentions", ()))
        if hasattr(attention, "to_k") and not getattr(attention, "only_cross_attention", False)
    ]
    with_text = any(block.added_kv_proj_dim is not None for _, _, _, block, *_ in found)
    without = {"self_attention": WHOLE} | BLOCK | (TOGETHER if with_text else {})
    yield from sites_of(found, "end" if with_text else "alone", without)


@register_family("StableCascadeUNet", timestep="timestep_ratio", time="t/1000", guidance="cond-uncond")
def cascade(model: Model) -> Iterable[Site]:
    """Stable Cascade, both models: keys are those of the image, and then of the text."""
    found = [
        (factor, stage, f"{prefix}.{i}", block, block.attention, "self_attention")
        for factor, stage, prefix, part in _parts(model)
        for i, block in enumerate(part)
        if getattr(block, "self_attn", False)
    ]
    yield from sites_of(found, "front", {"self_attention": WHOLE} | BLOCK | TOGETHER)


@register_family("Kandinsky3UNet")
def kandinsky3(model: Model) -> Iterable[Site]:
    """Kandinsky 3: the first attention of a part is the image's own, which runs last on the way up; the others meet the text."""
    found = [
        (factor, stage, f"{prefix}.attentions.{i}", block, block.attention, "cross_attention" if i else "self_attention")
        for factor, stage, prefix, part in _parts(model)
        for i, block in sorted(enumerate(part.attentions), key=lambda each: stage == "up" and each[0] == 0)
        if hasattr(block, "attention")
    ]
    yield from sites_of(found, "alone", BLOCK | {"feed_forward": "its feed-forward takes a whole image"})


def _parts(model: Model) -> Iterator[Part]:
    """Every part on the way down and up, each with a resolution of its own."""
    for i, part in enumerate(model.down_blocks):
        yield i, "down", f"down_blocks.{i}", part
    for i, part in enumerate(model.up_blocks):
        yield len(model.up_blocks) - 1 - i, "up", f"up_blocks.{i}", part
