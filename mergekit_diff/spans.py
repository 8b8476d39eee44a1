"""Which blocks run on the same merged tokens: as many as are asked for, where they follow each other in a list of the model."""

from collections.abc import Sequence

from .options import Options
from .sites import Site


def check_span(options: Options, roles: Sequence[str], records_outputs: bool) -> None:
    """Refuse what a span of several blocks cannot have.

    Args:
        options: of the session.
        roles: those that it merges in.
        records_outputs: whether the strategy reads the outputs of layers.

    Raises:
        ValueError: something is given that needs every block's own tokens; the message is one line.
    """
    if options.span == 1:
        return
    wrong = {
        f"roles='block', got {', '.join(roles)}": tuple(roles) != ("block",),
        f"gate='none', since a gate measures one block, got {options.gate!r:.60}": options.gate != "none",
        "a strategy that does not read the outputs of layers": records_outputs,
    }
    if (expected := next((words for words, found in wrong.items() if found), None)) is not None:
        raise ValueError(f"span={options.span}: expected {expected}")


def spans(sites: Sequence[Site], length: int) -> list[list[Site]]:
    """All sites of a model in spans of at most ``length``; a block that follows no other, or does not run as a whole, is alone.

    Args:
        sites: in the order in which their blocks run.
        length: 1 leaves every site alone.

    Raises:
        ValueError: no two blocks can run on the same merged tokens.

    >>> from torch import nn
    >>> blocks = [nn.Linear(8, 8) for _ in range(5)]
    >>> names = ["double.0", "double.1", "single.0", "single.1", "single.2"]
    >>> sites = [Site(name, block, roles={"block": block}) for name, block in zip(names, blocks)]
    >>> [[site.name for site in span] for span in spans(sites, 2)]
    [['double.0', 'double.1'], ['single.0', 'single.1'], ['single.2']]
    """
    found: list[list[Site]] = []
    for site in sites:
        if found and len(found[-1]) < length and _follows(site, found[-1][-1]):
            found[-1].append(site)
        else:
            found.append([site])
    if length > 1 and all(len(span) == 1 for span in found):
        reasons = ", ".join(dict.fromkeys(site.apart for site in sites if site.apart)) or "each is in a list of its own"
        raise ValueError(f"span={length}: expected blocks that follow each other, got none among {len(sites)}: {reasons}")
    return found


def _follows(site: Site, before: Site) -> bool:
    (place, number), (last_place, last_number) = _place(site), _place(before)
    alike = (site.frame, site.reads, site.level) == (before.frame, before.reads, before.level)
    whole = site.offers("block") and before.offers("block") and not site.apart
    return whole and alike and number is not None and (place, number - 1) == (last_place, last_number)


def _place(site: Site) -> tuple[str, int | None]:
    """The list that a block is in, and its number there; None if it is in none."""
    place, _, number = site.name.rpartition(".")
    return place, int(number) if number.isdecimal() else None
