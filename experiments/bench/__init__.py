"""Time, operations and memory of strategies beside the base, the floor and the packages of others."""

from .config import Bench, load_bench
from .study_table import block_table, read_table

__all__ = ["Bench", "block_table", "load_bench", "read_table"]
