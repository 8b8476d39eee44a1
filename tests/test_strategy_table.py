"""A file in ``strategies/`` is all that it takes: it is in the tables of README and of the page, in the list and in the laws."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from strategy_table import README, page
from test_plugins import MINE

ROOT = Path(__file__).parents[1]
LOOK = """
import sys
from types import SimpleNamespace

sys.path[:0] = [sys.argv[1] + "/tests", sys.argv[1] + "/docs/hooks"]
from mergekit_diff.experiments.cli import main
from strategies import MARKER, on_page_markdown
from strategy_table import page

main(["list", "strategy"])
print(page())
print(on_page_markdown(MARKER, None, None, None))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a copy of the package that has one strategy more."""
    package = tmp_path_factory.mktemp("site") / "mergekit_diff"
    for source, target in (("mergekit_diff", package), ("strategies", package / "strategies")):
        shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "experiments").symlink_to(ROOT / "experiments")
    (package / "strategies" / "mine.py").write_text(MINE)
    return package.parent


def output(home, *words):
    """What a Python process prints that finds the package there."""
    environment = os.environ | {"PYTHONPATH": str(home)}
    done = subprocess.run([sys.executable, *words], cwd=home, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_readme_has_the_table_of_what_is_registered():
    """Else run: python tests/strategy_table.py"""
    assert README.read_text(encoding="utf-8") == page()


def test_a_new_file_is_in_the_list_in_readme_and_on_the_page(home):
    listed, rest = output(home, "-c", LOOK, str(ROOT)).split("# mergekit_diff\n")
    readme, site = rest.split("## What to read next")
    assert "  mine            Leave every token alone. Nobody (2026)." in listed
    row = "| `mine` | Leave every token alone | Nobody (2026) |"
    assert readme.count(row) == site.count(row) == 1 and "## mine\n" in site
    assert "`mine`" not in README.read_text(encoding="utf-8")


def test_a_new_file_is_under_the_laws(home):
    collected = output(home, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", str(ROOT / "tests/test_strategies.py"))
    assert "test_plan_is_a_partition_that_merge_and_unmerge_respect[mine-(8, 8)-0.5]" in collected
