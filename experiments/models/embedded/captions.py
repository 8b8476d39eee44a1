"""Captions of emoji in motion on backgrounds, and the parts of the T5-type text encoders that read them."""

from collections.abc import Iterable
from typing import Any

from transformers import T5Tokenizer

from . import backgrounds, text
from .backgrounds import Background

LENGTH = text.LENGTH  # tokens of a caption
WIDTH = 128  # of a T5 state


def caption(word: str, style: str | None = None, motion: str | None = None, background: Background | None = None) -> str:
    """A caption of whatever parts are known.

    >>> caption("apple", "noto", "sliding left", Background("plain", "blue"))
    'a noto apple sliding left on blue'
    >>> caption("apple", background=Background("stripes", "red"))
    'an apple on red stripes'
    """
    return " ".join(str(part) for part in (text.caption(word, style), motion, background) if part is not None)


def new_tokenizer(more: Iterable[str] = ()) -> T5Tokenizer:
    """One token a word, in T5's form; every other word is unknown.

    Args:
        more: further words that get a token of their own.
    """
    words = sorted((text.caption_words() | backgrounds.words()).union(more))
    pieces = ["<pad>", "</s>", "<unk>", *(f"▁{word}" for word in words)]
    return T5Tokenizer(vocab=[(piece, 0.0) for piece in pieces], extra_ids=0, model_max_length=LENGTH)


def t5_settings(tokenizer: T5Tokenizer) -> dict[str, Any]:
    """The configuration of an encoder of (B, 16) token ids to (B, 16, 128) states.

    It is trained with the transformer and takes about one percent of a step, so its states cannot be computed once. There is no
    dropout: a resumed training must repeat an unbroken one.
    """
    return {
        "vocab_size": len(tokenizer),
        "d_model": WIDTH,
        "d_kv": 32,
        "d_ff": 2 * WIDTH,
        "num_layers": 2,
        "num_heads": 4,
        "dropout_rate": 0.0,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": False,
        "use_cache": False,
    }
