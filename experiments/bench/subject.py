"""What is timed, with random weights: a U-Net, one of its blocks or attention layers, or a transformer; and its inputs.

A U-Net's block is called like a U-Net, with latents, timestep and text, so that sessions merge in it as they do in a U-Net.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from mergekit_diff.arguments import Signature
from mergekit_diff.sites import Site, find_sites, register_family

from ..models import resolve_device
from .config import Bench
from .filling import Subject, randomly
from .sizes import Size, find_size
from .transformer_sizes import Transformer
from .transformer_subject import transformer_subject
from .whole_call import whole_call

SUBMODULES = {"self_attention": "attn1", "cross_attention": "attn2", "feed_forward": "ff"}


class OneBlock(nn.Module):
    """A transformer block on its own.

    Args:
        block: takes (B, N, C) tokens and ``encoder_hidden_states``.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, sample: Tensor, timestep: float, encoder_hidden_states: Tensor) -> Tensor:
        """The block on a (B, C, h, w) map, whose tokens are a view if it is channels-last."""
        tokens = rearrange(sample, "b c h w -> b (h w) c")
        return self.block(tokens, encoder_hidden_states=encoder_hidden_states)


class Layer(nn.Module):
    """The self-attention of a block, and nothing else of it."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.attn1 = block.get_submodule("attn1")

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """Self-attention of (B, N, C) tokens; the text is ignored."""
        return self.attn1(hidden_states)


@register_family("OneBlock")
def sites(model: nn.Module) -> Iterable[Site]:
    """The only site of a block on its own."""
    block = model.get_submodule("block")
    present = {role: module for role, name in SUBMODULES.items() if (module := getattr(block, name, None)) is not None}
    norm = getattr(block, "norm1", nn.Identity())  # a layer alone gets the input of the attention
    yield Site(name="block", block=block, roles=present, frame=model, stage="down", normalize=norm)


def subject(bench: Bench, device: str | None = None) -> Subject:
    """What ``bench`` times, on its device.

    Args:
        bench: the measurement.
        device: another device; "meta" holds no data and computes nothing but shapes.
    """
    size, dtype, place = find_size(bench.size), getattr(torch, bench.dtype), device or resolve_device(bench.device)
    if isinstance(size, Transformer):
        return transformer_subject(size, bench, place)
    with torch.device("meta"):
        whole = _unet(size, bench)
    if bench.at in ("step", "call"):
        step = _filled(whole, place, dtype)
        return step if bench.at == "step" else whole_call(step, bench)
    block, sample = _finest(whole)
    model = OneBlock(Layer(block) if bench.at == "layer" else block)
    text = whole.others["encoder_hidden_states"]
    return _filled(Subject(model, sample, {"encoder_hidden_states": text}), place, dtype)


def _unet(size: Size, bench: Bench) -> Subject:
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(**size.unet).eval()
    height, width = (side // size.factor for side in bench.height_and_width())
    others: dict[str, Any] = {"encoder_hidden_states": torch.empty(bench.batch, size.words, size.unet["cross_attention_dim"])}
    if size.unet.get("addition_embed_type") == "text_time":
        pooled = size.unet["projection_class_embeddings_input_dim"] - 6 * size.unet["addition_time_embed_dim"]
        others["added_cond_kwargs"] = {"text_embeds": torch.empty(bench.batch, pooled), "time_ids": torch.empty(bench.batch, 6)}
    return Subject(model, torch.empty(bench.batch, size.unet.get("in_channels", 4), height, width), others)


def _finest(whole: Subject) -> tuple[nn.Module, Tensor]:
    """The first block of the finest level, and an input of the shape that it has inside the U-Net."""
    site = next(site for site in find_sites(whole.model) if site.level == 0)
    seen: list[Tensor] = []
    with _watched(site.frame or site.block, seen), _watched(site.block, seen):
        whole.call()
    framed, tokens = seen
    sample = torch.empty(len(tokens), tokens.shape[-1], *site.layout({"sample": framed}).grid, device="meta")
    return site.block, sample.contiguous(memory_format=torch.channels_last)  # so that its tokens are a view


@contextmanager
def _watched(module: nn.Module, seen: list[Tensor]) -> Iterator[None]:
    signature = Signature(module)

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(signature.read(args, kwargs)[signature.first])

    handle = module.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _filled(empty: Subject, device: str, dtype: torch.dtype) -> Subject:
    """The same with reproducible random weights and inputs; the global generator is left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = empty.model.to_empty(device=device)
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
        others, sample = randomly(empty.others, device, dtype), randomly(empty.sample, device, dtype)
    latents = sample.shape[2], sample.shape[3]
    return Subject(nn.Module.to(model, dtype), sample, others, latents)  # diffusers' own 'to' warns about every cast
