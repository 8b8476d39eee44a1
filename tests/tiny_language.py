"""Tiny random language models."""

import torch
import transformers
from tiny_family import strengthened

WORDS = 64
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
ROTATED = SIZES | {"intermediate_size": 48}


def llama(**changes):
    """With two queries for every key."""
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**ROTATED | {"num_key_value_heads": 2} | changes))


def mistral(**changes):
    settings = ROTATED | {"num_key_value_heads": 2, "sliding_window": None} | changes
    return transformers.MistralForCausalLM(transformers.MistralConfig(**settings))


def qwen2(**changes):
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**ROTATED | {"num_key_value_heads": 4} | changes))


def qwen3(**changes):
    settings = ROTATED | {"num_key_value_heads": 1, "head_dim": 8} | changes
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**settings))


def gpt2(**changes):
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**SIZES | changes))


def gpt_neox(**changes):
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**ROTATED | changes))


LANGUAGE = {each.__name__: each for each in (llama, mistral, qwen2, qwen3, gpt2, gpt_neox)}
TITLES = dict.fromkeys(LANGUAGE, "Llama, Mistral, Qwen2, Qwen3") | {"gpt2": "GPT-2", "gpt_neox": "GPT-NeoX, Pythia"}
"""Of their rows in the table of models."""


def build(name, **changes):
    """A model with random weights that matter: its next tokens depend on all that came before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LANGUAGE[name](**changes)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(8)
        return strengthened(model)


def prompt(length, rows=1, seed=0):
    return torch.randint(1, WORDS, (rows, length), generator=torch.Generator().manual_seed(seed))


def logits(model, *chunks, cache=None):
    """The logits (B, tokens, words) of chunks that are read one after the other into one cache, and that cache."""
    cache, read = transformers.DynamicCache() if cache is None else cache, []
    with torch.no_grad():
        for chunk in chunks:
            read.append(model(chunk, past_key_values=cache, use_cache=True).logits)
    return torch.cat(read, 1), cache
