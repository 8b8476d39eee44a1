"""Time, operations and memory of strategies, next to the base, the floor and other packages."""

from .config import Bench, load_bench
from .study_table import block_table

__all__ = ["Bench", "block_table", "load_bench"]
