"""Weights & Biases: a copy of the rows, never the record."""

from .sink import track

__all__ = ["track"]
