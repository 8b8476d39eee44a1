"""Causal language models of transformers: keys and values merge in the cache, and nothing else does."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from . import Cached, Layout, Model, Site, listed, register_family

LEAKS = "a token that merges with a later one would see the future; only key_value, in the cache, does not"
WITHOUT = dict.fromkeys(("self_attention", "feed_forward", "block"), LEAKS) | {"cross_attention": "no other tokens are read"}
NAMES = ("cache", "past_key_values", "layer_past")
"""What a model, a block or an attention calls its cache, in any release of transformers 5."""


def text(arguments: Mapping[str, Any]) -> Layout:
    """The new tokens of a call, in a line.

    Raises:
        ValueError: some of them are padding, which would merge with words.
    """
    tokens = arguments.get("input_ids")
    tokens = arguments["inputs_embeds"] if tokens is None else tokens
    mask, number = arguments.get("attention_mask"), tokens.shape[1]
    if mask is not None and number > 1:
        if not isinstance(mask, Tensor) or mask.dim() != 2:
            raise ValueError("expected attention_mask (B, tokens) for a model whose keys merge, got one of another form")
        if not bool(mask.all()):
            raise ValueError("expected texts of one length, got padding in attention_mask, which would merge with words")
    return Layout((number,))


def _site(model: Model, name: str, block: Model, index: int, attention: Model, norm: nn.Module, *, rotary: bool = True) -> Site:
    return Site(
        name,
        block,
        roles={"self_attention": attention},
        frame=model, layout=text, reads=("input_ids", "inputs_embeds", "attention_mask"),
        key_value=None, rotary=rotary, without=WITHOUT, normalize=norm,
        cache=Cached(NAMES, index, backend=partial(getattr, attention.config, "_attn_implementation")),
    )  # fmt: skip


@register_family("LlamaPreTrainedModel", "MistralPreTrainedModel", "Qwen2PreTrainedModel", "Qwen3PreTrainedModel", channels=0)
def llama(model: Model) -> Iterable[Site]:
    """With grouped queries or not."""
    base = model.base_model
    for i, (name, block) in enumerate(listed(base, "layers")):
        yield _site(base, name, block, i, block.self_attn, block.input_layernorm)


@register_family("GPT2PreTrainedModel", channels=0)
def gpt2(model: Model) -> Iterable[Site]:
    """GPT-2."""
    base = model.base_model
    for i, (name, block) in enumerate(listed(base, "h")):
        yield _site(base, name, block, i, block.attn, block.ln_1, rotary=False)


@register_family("GPTNeoXPreTrainedModel", channels=0)
def gpt_neox(model: Model) -> Iterable[Site]:
    """GPT-NeoX and Pythia."""
    base = model.base_model
    for i, (name, block) in enumerate(listed(base, "layers")):
        yield _site(base, name, block, i, block.attention, block.input_layernorm)
