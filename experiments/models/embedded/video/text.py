"""The small text encoder of ``emoji-video``, of the UMT5 type, as in Wan."""

from torch import Tensor
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from .. import captions
from .motions import MOTIONS


def new_tokenizer() -> T5Tokenizer:
    """One token for every word of the captions, those of motions too."""
    return captions.new_tokenizer({word for motion in MOTIONS for word in motion.split()})


def new_text_encoder(tokenizer: T5Tokenizer) -> UMT5EncoderModel:
    """(B, 16) token ids to (B, 16, 128) states."""
    return UMT5EncoderModel(UMT5Config(**captions.t5_settings(tokenizer)))


def encode(tokenizer: T5Tokenizer, encoder: UMT5EncoderModel, drawn: list[str]) -> Tensor:
    """(B, 16, 128) states of captions, zero behind their ends, as WanPipeline makes them with ``max_sequence_length=16``."""
    tokens = tokenizer(drawn, padding="max_length", max_length=captions.LENGTH, truncation=True, return_tensors="pt")
    states = encoder(tokens.input_ids, tokens.attention_mask)[0]
    return states * tokens.attention_mask[..., None]
