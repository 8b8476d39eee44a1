"""Output in the terminal: progress bars, tables, messages. Text from elsewhere, such as a prompt, cannot control the terminal."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that act on a terminal or change the order of letters, and those that cannot be written; not tab and newline."""

WIDE = 150
"""Width in characters of a table that is written to a file or a pipe."""


def visible(text: str) -> str:
    r"""Text in which control characters are written as in a Python literal.

    >>> print(visible("\x1b]0;title\x07"))
    \x1b]0;title\x07
    """
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(message: object) -> None:
    """Print."""
    print(visible(str(message)))


def one_line(message: object) -> str:
    """A message in one line, as :func:`visible`."""
    return visible(" ".join(str(message).split()))


def show_table(title: str, table: list[list[str]]) -> None:
    """Print a table; its first row is the header."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    view = Table(title=Text(visible(title), style="bold"), title_justify="left")
    for i, name in enumerate(table[0]):
        view.add_column(Text(visible(name)), justify="right" if i else "left", overflow="fold")
    for row in table[1:]:
        view.add_row(*[Text(visible(entry)) for entry in row])
    Console(width=None if sys.stdout.isatty() else WIDE).print(view)


def complain(message: str) -> None:
    """One line on stderr. Where that cannot be written to, as a log on a full disk, the exit code has to do."""
    with suppress(OSError):
        print(f"mergekit-diff: {one_line(message)}", file=sys.stderr)


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, if somebody sees it; yields the function that advances it by one."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    unseen = not (console.is_terminal or console.is_jupyter)  # in a file it is an empty line, or fails where the disk is full
    with Progress(*columns, console=console, transient=True, disable=unseen) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)
