"""The table of what works together with merging, made from the tests: python tests/works_with.py docs/works-with.md."""

import re
import sys
from pathlib import Path

PLACE = re.compile(r"(?<=<!-- works with -->\n).*?(?=<!-- end -->)", re.DOTALL)
LINES: dict[str, str] = {}


def works_with(what, answer):
    """Decorator: a test shows that something works with merging, "yes", or how far, or why not."""

    def known(test):
        assert LINES.setdefault(what, answer) == answer, f"two answers to {what!r}"
        return test

    return known


def table():
    """Markdown, in the order of the tests."""
    import test_works_with as tests  # their decorators fill the table of the module that they import

    rows = [f"| {what} | {answer} |" for what, answer in tests.LINES.items()]
    return "\n".join(["| together with | works |", "| --- | --- |", *rows])


def pasted(text):
    """A page with the table of today."""
    assert PLACE.search(text), "expected the lines '<!-- works with -->' and '<!-- end -->'"
    return PLACE.sub(lambda _: f"\n{table()}\n\n", text)


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(pasted(page.read_text(encoding="utf-8")), encoding="utf-8")
