"""Captions, and the small CLIP-type tokenizer and text encoder for them."""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import torch
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from . import data

LENGTH = 16
WIDTH = 256
END = "</w>"


def caption(word: str, style: str | None = None) -> str:
    """``caption("apple", "noto")`` is "a noto apple"; without a style, "an apple"."""
    if style is not None:
        return f"a {style} {word}"
    return f"{'an' if word[0] in 'aeiou' and word != 'unicorn' else 'a'} {word}"


def caption_words() -> set[str]:
    """Every word that :func:`caption` can use."""
    return {part for word in data.concepts().values() for part in word.split()} | {*data.STYLES, "a", "an"}


def new_tokenizer(more: Iterable[str] = ()) -> CLIPTokenizer:
    """A byte-level BPE like CLIP's that has one token for every word of the captions; other words are split.

    Args:
        more: further words that get a token of their own, in lower case.
    """
    words = caption_words().union(more)
    merges = bpe_merges(re.findall("[a-z]+", " ".join(sorted(words))))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(c + END for c in letters), *(a + b for a, b in merges)]
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(dict.fromkeys(tokens))}, merges=merges, model_max_length=LENGTH)


def bpe_merges(words: list[str]) -> list[tuple[str, str]]:
    """Merge the most frequent neighbours until every word is one token. Sennrich et al. (2016), arXiv 1508.07909.

    Reimplemented because the trainer of ``tokenizers`` 0.22 breaks ties by hash order, so that ids differ from run to run.
    """
    split = [[*word[:-1], word[-1] + END] for word in words]
    merges = []
    while pairs := Counter(pair for tokens in split for pair in pairwise(tokens)):
        best = max(sorted(pairs), key=pairs.__getitem__)
        merges.append(best)
        for tokens in split:
            for i in reversed(range(len(tokens) - 1)):
                if (*tokens[i : i + 2],) == best:
                    tokens[i : i + 2] = ["".join(best)]
    return merges


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """(B, 16) token ids to (B, 16, 256) states."""
    torch.manual_seed(0)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """(B, 16) token ids, padded as StableDiffusionPipeline does."""
    return tokenizer(captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids
