"""The table of strategies in README, made from what is registered: ``python tests/strategy_table.py`` writes it."""

import re
from pathlib import Path

from mergekit_diff.experiments.listing import table_of_strategies

README = Path(__file__).parent.parent / "README.md"
BETWEEN = re.compile(r"(?<=<!-- strategies -->\n).*?(?=<!-- end -->)", re.DOTALL)


def page() -> str:
    """The text of README with its table made anew."""
    return BETWEEN.sub(lambda _: f"\n{table_of_strategies()}\n\n", README.read_text(encoding="utf-8"))


if __name__ == "__main__":
    README.write_text(page(), encoding="utf-8")
