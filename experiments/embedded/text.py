"""Captions, and the small CLIP-type tokenizer and text encoder that read them."""

import json

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from . import data

LENGTH = 16
WIDTH = 256


def caption(word: str, style: str | None = None) -> str:
    """``caption("apple", "noto")`` is "a noto apple"; without a style, "an apple"."""
    if style is not None:
        return f"a {style} {word}"
    return f"{'an' if word[0] in 'aeiou' and word != 'unicorn' else 'a'} {word}"


def new_tokenizer() -> CLIPTokenizer:
    """A byte-level BPE in CLIP's form whose merges make one token of every word of the captions; other words fall apart."""
    bpe = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        min_frequency=1,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=sorted(alphabet),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    words = [part for word in data.concepts().values() for part in word.split()]
    bpe.train_from_iterator([*words, *data.STYLES, "a", "an", *sorted(alphabet)], trainer)
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    return CLIPTokenizer(vocab=bpe.get_vocab(), merges=merges, model_max_length=LENGTH)


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
