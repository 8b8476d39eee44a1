"""OpenMP threads sleep soon where this project starts torch itself; elsewhere, and where the user decides, nothing is set."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mergekit_diff.experiments.openmp import SPINS

TESTS = Path(__file__).parent
NOTEBOOKS = sorted((TESTS.parent / "notebooks").glob("*.ipynb"))
SPINNING = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
PRINT = "import os; print(os.environ.get('GOMP_SPINCOUNT'))"
CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {PRINT!r}])"


def spin_count(code, **environment):
    """What a program that this code starts at its end sees of the setting."""
    clean = {key: value for key, value in os.environ.items() if key not in SPINNING}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{CHILD}"],
        cwd=TESTS,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout.splitlines()[-1]


LIST = "from mergekit_diff.experiments.cli import main; main(['list', 'strategy'])"
BENCH = "from mergekit_diff.experiments.cli import main; main(['bench', 'rtio=1'])"


@pytest.mark.parametrize("code", [LIST, "import conftest"], ids=["command line", "tests"])
def test_threads_sleep_soon_in_programs_of_the_command_line_and_of_tests(code):
    assert spin_count(code) == SPINS


@pytest.mark.parametrize("code", [BENCH, "import mergekit_diff; mergekit_diff.merging"], ids=["bench", "library"])
def test_bench_and_users_of_the_library_are_left_alone(code):
    assert spin_count(code) == "None"


@pytest.mark.parametrize(("variable", "value", "expected"), [("GOMP_SPINCOUNT", "7", "7"), ("OMP_WAIT_POLICY", "ACTIVE", "None")])
def test_the_users_own_setting_wins(variable, value, expected):
    assert spin_count(LIST, **{variable: value}) == expected


@pytest.mark.parametrize("start", [LIST, "import conftest"], ids=["command line", "tests"])
def test_it_is_set_before_torch_is_imported(start):
    watch = (
        "import sys\nfrom mergekit_diff.experiments import openmp\nset_it = openmp.limit_spinning\n"
        "openmp.limit_spinning = lambda: (set_it(), print('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", f"{watch}\n{start}"], cwd=TESTS, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "False"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_sets_it_first(path):
    codes = ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    imports = [line for line in codes[0].splitlines() if line.startswith(("import ", "from "))]
    assert imports == ["from mergekit_diff.experiments.openmp import limit_spinning"]
    assert "\nlimit_spinning()" in codes[0]
