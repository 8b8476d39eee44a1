"""Captions with motions, and the small text encoder for them: of the UMT5 type, as in Wan.

It is trained with the transformer, which costs far less than a hundredth of a step; so its states cannot be computed once.
"""

from torch import Tensor
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from ..flux import text
from ..flux.backgrounds import Background
from ..flux.text import LENGTH, WIDTH
from .motions import MOTIONS


def caption(word: str, style: str | None, motion: str | None, background: Background | None) -> str:
    """``caption("apple", "noto", "sliding left", Background("plain", "blue"))`` is "a noto apple sliding left on blue"."""
    return " ".join(str(part) for part in (text.caption(word, style), motion, background) if part is not None)


def new_tokenizer() -> T5Tokenizer:
    """The tokenizer of the images' T5-type encoder, extended by the words of motions."""
    return text.new_tokenizer_2({word for motion in MOTIONS for word in motion.split()})


def new_text_encoder(tokenizer: T5Tokenizer) -> UMT5EncoderModel:
    """(B, 16) token ids to (B, 16, 128) states. No dropout: a resumed training must repeat an unbroken one."""
    config = UMT5Config(
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
    return UMT5EncoderModel(config)


def encode(tokenizer: T5Tokenizer, encoder: UMT5EncoderModel, captions: list[str]) -> Tensor:
    """(B, 16, 128) states, zero behind a caption's end, as WanPipeline makes them when called with ``max_sequence_length=16``."""
    tokens = tokenizer(captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    states = encoder(tokens.input_ids, tokens.attention_mask)[0]
    return states * tokens.attention_mask[..., None]
