"""Weights & Biases: a copy of the rows, never the record."""

from .runs import track

__all__ = ["track"]
