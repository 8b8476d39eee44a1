"""Captions with backgrounds, and the two small text encoders for them.

As in Flux, the CLIP-type encoder gives one vector that modulates every block, the T5-type one gives the text tokens that
attend together with the image. Both are trained with the transformer: they take about one percent of a step.
"""

from collections.abc import Iterable

from torch import Tensor
from transformers import CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from .. import text
from . import backgrounds
from .backgrounds import Background

LENGTH = text.LENGTH  # tokens of a caption, in both encoders
WIDTH = 128  # of a T5 state


def caption(word: str, style: str | None = None, background: Background | None = None) -> str:
    """``caption("apple", "noto", Background("plain", "blue"))`` is "a noto apple on blue"."""
    return text.caption(word, style) + (f" {background}" if background is not None else "")


def new_tokenizer() -> CLIPTokenizer:
    """The tokenizer of the first embedded model, extended by the words of backgrounds."""
    return text.new_tokenizer(backgrounds.words())


def new_tokenizer_2(more: Iterable[str] = ()) -> T5Tokenizer:
    """One token a word, in T5's form; every other word is unknown.

    Args:
        more: further words that get a token of their own.
    """
    words = sorted((text.caption_words() | backgrounds.words()).union(more))
    pieces = ["<pad>", "</s>", "<unk>", *(f"▁{word}" for word in words)]
    return T5Tokenizer(vocab=[(piece, 0.0) for piece in pieces], extra_ids=0, model_max_length=LENGTH)


def new_text_encoder_2(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """(B, 16) token ids to (B, 16, 128) states. No dropout: a resumed training must repeat an unbroken one."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        d_kv=32,
        d_ff=2 * WIDTH,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
    )
    return T5EncoderModel(config)


def tokenize(tokenizer: CLIPTokenizer | T5Tokenizer, captions: list[str]) -> Tensor:
    """(B, 16) token ids, padded as FluxPipeline does when called with ``max_sequence_length=16``."""
    return tokenizer(captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids
