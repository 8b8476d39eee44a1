"""The library alone: torch and einops are enough to merge; everything else is the extra ``experiments``."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WITHOUT = """
import runpy, sys
absent = set(sys.argv.pop(1).split(","))
class Without:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, *rest): return None if name.partition(".")[0] in absent else self.finder.find_spec(name, *rest)
sys.meta_path[:] = map(Without, sys.meta_path)
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def distribution(requirement: str) -> str:
    return re.split(r"[\[<>=~!; ]", requirement)[0].lower().replace("_", "-")


def modules_of(requirements: list[str]) -> set[str]:
    """The top-level modules of the distributions that are required."""
    wanted = {distribution(requirement) for requirement in requirements}
    packages = importlib.metadata.packages_distributions()
    return {module for module, owners in packages.items() if wanted & {distribution(owner) for owner in owners}}


@pytest.fixture(scope="module")
def absent():
    """Modules of every extra, which a core-only environment lacks."""
    extras = PROJECT["optional-dependencies"]
    absent = modules_of([r for extra in extras.values() for r in extra if not r.startswith(("mergekit-diff", "setuptools"))])
    assert {"diffusers", "transformers", "numpy", "yaml", "lightning", "matplotlib", "wandb"} <= absent
    return absent - {"torch", "einops", "_pytest"}


def test_the_core_is_torch_and_einops():
    assert {distribution(requirement) for requirement in PROJECT["dependencies"]} == {"torch", "einops"}


def test_merging_in_an_own_model_needs_torch_and_einops_alone(absent, tmp_path):
    script = tmp_path / "without.py"
    script.write_text(WITHOUT)
    command = [sys.executable, script, ",".join(absent), ROOT / "tests" / "own_model.py"]
    environment = os.environ | {"PYTHONWARNINGS": "ignore:Failed to initialize NumPy"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "self_attention" in done.stdout and "left out" not in done.stderr


def test_every_import_of_the_library_and_its_strategies_is_of_the_core():
    allowed = {"torch", "einops", "mergekit_diff", *sys.stdlib_module_names}
    for folder in ("mergekit_diff", "strategies"):
        for path in (ROOT / folder).rglob("*.py"):
            nodes = list(ast.walk(ast.parse(path.read_text())))
            named = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
            named += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
            assert {name.partition(".")[0] for name in named} <= allowed, path
