"""The two small text encoders of ``emoji-flux``.

As in Flux, the CLIP-type encoder gives one vector that modulates every block, the T5-type one gives the text tokens that
attend together with the image.
"""

from torch import Tensor
from transformers import CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from .. import backgrounds, captions, text


def new_tokenizer() -> CLIPTokenizer:
    """The tokenizer of the first embedded model, extended by the words of backgrounds."""
    return text.new_tokenizer(backgrounds.words())


def new_text_encoder_2(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """(B, 16) token ids to (B, 16, 128) states."""
    return T5EncoderModel(T5Config(**captions.t5_settings(tokenizer)))


def tokenize(tokenizer: CLIPTokenizer | T5Tokenizer, drawn: list[str]) -> Tensor:
    """(B, 16) token ids of captions, padded as FluxPipeline does when called with ``max_sequence_length=16``."""
    return tokenizer(drawn, padding="max_length", max_length=captions.LENGTH, truncation=True, return_tensors="pt").input_ids
