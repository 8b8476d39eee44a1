"""A file dropped into strategies/ is found; one that does not import is named once and hides no other."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mergekit_diff import MergePlan, make, names, plugins

ROOT = Path(__file__).parents[1]

MINE = '''"""Leaves every token alone."""

from dataclasses import dataclass

from torch import Tensor

from mergekit_diff import LayerContext, MergePlan, MergeStrategy, RatioSchedule, SimilarityMetric, WindowSchedule, register
from mergekit_diff.schedules import ByProgress, Linear, Shifted
from mergekit_diff.similarity import Cosine
from mergekit_diff.strategies.retom import ReToM


@register("mine")
@dataclass(frozen=True)
class Mine(MergeStrategy):
    """Leave every token alone. Nobody (2026)."""

    ratio: RatioSchedule = Linear(0.6, 0.2)
    window: WindowSchedule = Shifted()
    late: WindowSchedule = ByProgress(Shifted(by="step"))
    metric: SimilarityMetric = Cosine()
    inner: MergeStrategy = ReToM(alpha=0.5)

    def plan(self, x: Tensor, ctx: LayerContext) -> MergePlan | None:
        """No plan."""
        return None
'''
LOOK = """
import json, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from mergekit_diff import names, strategies
    known = [names("strategy"), names("metric"), names("window")][0]
said = [(str(w.message), w.filename, w.lineno) for w in caught if "left out" in str(w.message)]
print(json.dumps({"home": strategies.__path__[0], "names": known, "said": said}))
"""


@pytest.fixture
def look(tmp_path):
    """Copies of the library and the built-in strategies beside further files, in a process of their own: what it finds."""
    home = tmp_path / "site" / "mergekit_diff"
    shutil.copytree(ROOT / "mergekit_diff", home, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "strategies", home / "strategies", ignore=shutil.ignore_patterns("__pycache__"))

    def found(**files):
        for name, text in files.items():
            (home / "strategies" / f"{name}.py").write_text(text)
        environment = os.environ | {"PYTHONPATH": str(home.parent)}
        done = subprocess.run(
            [sys.executable, "-c", LOOK], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["home"] == str(home / "strategies")
        return result["names"], result["said"]

    return found


def test_a_file_that_does_not_import_is_named_once_and_hides_no_other(look):
    files = {
        "aaa_unfinished": "def plan(:\n",
        "mine": MINE,
        "needs_more": "import math\n\nimport a_library_that_nobody_has\n",
        "zzz_wrong": "from mergekit_diff.schedules import Constant\n\nRATIO = Constant(1.5)\n",
    }
    known, said = look(**files)
    assert known == sorted([*names("strategy"), "mine"])
    assert [Path(file).name for _, file, _ in said] == ["aaa_unfinished.py", "needs_more.py", "zzz_wrong.py"]
    for (message, file, line), error, at in zip(
        said, ("SyntaxError", "ModuleNotFoundError", "ValueError"), (1, 3, 3), strict=True
    ):
        assert f"{file}, line {at}: {error}: " in message and line == at and "\n" not in message
    assert "a_library_that_nobody_has" in said[1][0]


def test_what_imports_a_broken_file_is_left_out_with_it_in_the_same_warning(look):
    known, said = look(retom="import math\nmath.root\n")
    assert set(names("strategy")) - set(known) == {"retom", "retom-paper", "proportional", "dynamic-ratio"} & set(
        names("strategy")
    )
    ((message, file, line),) = said
    assert Path(file).name == "retom.py" and line == 2 and "retom, wrapper left out" in message


def test_plug_ins_that_do_not_import_are_named_and_left_out(registry, monkeypatch, tmp_path):
    (tmp_path / "their_broken_plugin.py").write_text("import math\n\nmath.floor('a')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    entries = [
        importlib.metadata.EntryPoint(name, value, plugins.GROUP)
        for name, value in (
            ("absent", "nowhere.at_all"),
            ("broken", "their_broken_plugin"),
            ("metrics", "mergekit_diff.similarity"),
        )
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: entries)
    plugins.load_plugins.cache_clear()
    with pytest.warns(UserWarning) as caught:
        assert "retom" in names("strategy")
    plugins.load_plugins.cache_clear()
    absent, broken = (str(w.message) for w in caught)
    assert absent == "plug-in 'absent' (nowhere.at_all) is left out: ModuleNotFoundError: No module named 'nowhere'"
    assert f"{tmp_path / 'their_broken_plugin.py'}, line 3: TypeError: " in broken
    assert caught[1].filename == str(tmp_path / "their_broken_plugin.py") and caught[1].lineno == 3


def test_a_strategy_whose_defaults_are_parts_passes_lint_with_our_configuration(tmp_path):
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "mine.py").write_text(MINE)
    for command in (("check",), ("format", "--check")):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", "."], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("registry")
def test_parts_of_contributing_work(tokens, context):
    block = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)[1]
    exec(block, {"__name__": "example"})
    ctx = context((6, 5))
    assert make("metric", "chebyshev")(tokens(2, 5), tokens(2, 7)).shape == (2, 5, 7)
    assert make("ratio", {"name": "warm-up", "steps": 1})(ctx) == 0 and make("ratio", {"name": "warm-up", "steps": 0})(ctx) == 0.5
    assert make("window", "half-grid")(ctx) == (3, 3)
    x, target = tokens(1, 3), torch.tensor([[0, 0, 2]])
    blend = MergePlan.from_target(target, 2, reduction=make("reduction", {"name": "blend", "share": 0.25}))
    torch.testing.assert_close(blend.merge(x)[0, 0], 0.875 * x[0, 0] + 0.125 * x[0, 1])
