"""The examples of the documents run as they stand."""

import re
from pathlib import Path

import pytest
import torch
from tiny import tiny_unet

from mergekit_diff import make, merging, names

ROOT = Path(__file__).parent.parent


def blocks(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.S)


@pytest.mark.usefixtures("registry")
def test_contributing_strategy_merges_in_a_unet():
    namespace = {"__name__": "example"}
    exec(blocks("CONTRIBUTING.md")[0], namespace)
    assert "neighbours" in names("strategy")
    unet = tiny_unet()
    with merging(unet, make("strategy", {"name": "neighbours", "ratio": 0.25}), strict=True) as session, torch.no_grad():
        unet(torch.randn(1, 4, 16, 16), 1, torch.randn(1, 16, 32))
    assert session.report().granted == pytest.approx(0.25)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_python_examples_are_valid_python(document):
    for block in blocks(document):
        compile(block, document, "exec")
