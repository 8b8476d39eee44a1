"""Output in the terminal: progress bars, tables, messages."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

WIDE = 150
"""Width in characters of a table that is written to a file or a pipe."""


def show_table(title: str, table: list[list[str]]) -> None:
    """Print a table; its first row is the header."""
    view = Table(title=Text(title, style="bold"), title_justify="left")
    for i, name in enumerate(table[0]):
        view.add_column(Text(name), justify="right" if i else "left", overflow="fold")
    for row in table[1:]:
        view.add_row(*map(Text, row))
    Console(width=None if sys.stdout.isatty() else WIDE).print(view)


def complain(message: str) -> None:
    """One line on stderr."""
    print(f"mergekit-diff: {' '.join(message.split())}", file=sys.stderr)


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr; yields the function that advances it by one."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)
