"""A language model in a GGUF file, read by transformers."""

import io
from collections.abc import Sequence
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..quiet import quiet

BEGINNING, REST = 512, 192


class Reader:
    """A language model and its words, as the task ``text`` calls them.

    Args:
        transformer: a causal language model of transformers.
        tokenizer: of transformers.
        beginning: tokens of a passage that are read in one call, whose keys merge.
        rest: tokens after them.
    """

    def __init__(self, transformer: nn.Module, tokenizer: Any, beginning: int = BEGINNING, rest: int = REST) -> None:  # noqa: ANN401
        self.transformer, self.tokenizer, self.beginning, self.rest = transformer, tokenizer, beginning, rest

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.transformer.parameters()).device

    def to(self, device: str | torch.device) -> "Reader":
        """Move the model to a device."""
        self.transformer.to(device)
        return self

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, with none added."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some tokens."""
        return self.tokenizer.decode(list(tokens))


def load(path: Path, dtype: str) -> Reader:
    """The model in a file, ready to be called.

    Raises:
        ValueError: the package that reads the format is missing.
    """
    if find_spec("gguf") is None:
        raise ValueError(f"expected the package gguf, which reads {path.name}, got none: pip install 'mergekit-diff[gguf]'")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet(), redirect_stderr(io.StringIO()):  # transformers 5 shows a bar for this format whatever it is told
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=getattr(torch, dtype))
    return Reader(model.eval(), tokenizer)
