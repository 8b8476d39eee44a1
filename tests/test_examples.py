"""The examples in docstrings run as they stand."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOMES = {
    "mergekit_diff": "mergekit_diff",
    "strategies": "mergekit_diff.strategies",
    "experiments": "mergekit_diff.experiments",
}


def modules_with_examples():
    """Dotted names, as they are imported once installed: strategies/ and experiments/ are inside the package."""
    for folder, package in HOMES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            if ">>> " in path.read_text():
                words = path.relative_to(ROOT / folder).with_suffix("").parts
                yield ".".join([package, *(word for word in words if word != "__init__")])


@pytest.mark.usefixtures("registry", "families")
@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings_run(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0 and result.failed == 0, f"see: python -m doctest, {name}"
