"""What people see while a command works and when it is done."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

WIDE = 150
"""Columns of a table that goes to a file or a pipe."""


def show_table(title: str, table: list[list[str]]) -> None:
    """Print a heading and rows."""
    shown = Table(title=Text(title, style="bold"), title_justify="left")
    for i, name in enumerate(table[0]):
        shown.add_column(Text(name), justify="right" if i else "left", overflow="fold")
    for row in table[1:]:
        shown.add_row(*map(Text, row))
    Console(width=None if sys.stdout.isatty() else WIDE).print(shown)


def complain(message: str) -> None:
    """One line on stderr."""
    print(f"mergekit-diff: {' '.join(message.split())}", file=sys.stderr)


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr; yields the function that moves it on."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)
