"""Whether merging makes images worse, not only different: quality metrics of every cell, paired with its base and its control."""

from collections.abc import Mapping, Sequence

from .comparison import Comparison, Scale, paired
from .row import Row


def quality(cells: Mapping[str, Sequence[Row]], bases: Mapping[str, str], scale: Scale) -> list[Comparison]:
    """Every cell against its base, then every cell that has a control against that; each corrected for its own number of cells.

    Args:
        cells: rows by cell, bases too.
        bases: by cell, the name of its base.
        scale: a metric of quality, of single images or of sets.
    """
    against_base = [(cell, base) for cell, base in bases.items() if cell != base and base in cells]
    controls = [(cell, rows[0].against) for cell, rows in cells.items()]
    against_control = [(cell, name) for cell, name in controls if name is not None and name in cells and name != bases.get(cell)]
    return [*paired(cells, against_base, scale), *paired(cells, against_control, scale)]
