"""The package as a wheel: built, installed into an environment of its own, used from another folder."""

import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import mergekit_diff

ROOT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__", "shared", "wandb")

HOMES = {
    "mergekit_diff": "mergekit_diff",
    "strategies": "mergekit_diff/strategies",
    "experiments": "mergekit_diff/experiments",
}

PLUG_IN = '''
from dataclasses import dataclass

from mergekit_diff import MergeStrategy, RatioSchedule, register


@register("from-elsewhere")
@dataclass(frozen=True)
class FromElsewhere(MergeStrategy):
    """Leaves everything alone."""

    ratio: RatioSchedule = 0.5

    def plan(self, x, ctx):
        return None
'''


def run(*command, cwd):
    return subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=LEFT_OUT)
    built = run(
        *(sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder),
        cwd=folder / "source",
    )
    if built.returncode and ("setuptools" in built.stderr and "build_meta" in built.stderr):
        pytest.skip("setuptools is not installed, and nothing can be fetched")
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """An environment with the wheel alone, that sees the libraries of the running one; its folder of programs."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    programs = folder / "bin"
    pip = run(
        *(sys.executable, "-m", "pip", "--python", programs / "python", "install", "--no-deps", "--no-index", wheel), cwd=folder
    )
    assert pip.returncode == 0, pip.stderr
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    return programs


def shipped():
    """Every file of the three folders, as placed in the wheel; not the findings and logs, which belong to the repository."""
    for folder, home in HOMES.items():
        for path in (ROOT / folder).rglob("*"):
            place = path.relative_to(ROOT / folder)
            log = len(place.parts) == 1 and path.suffix == ".md"
            if path.is_file() and "__pycache__" not in path.parts and place.parts[0] != "findings" and not log:
                yield f"{home}/{place.as_posix()}"


def test_wheel_holds_every_module_and_data_file_of_its_folders_and_nothing_else(wheel):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert inside == set(shipped())


def test_no_package_is_forgotten():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {
        ".".join([home.replace("/", "."), *path.parent.relative_to(ROOT / folder).parts])
        for folder, home in HOMES.items()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert sorted(tools["packages"]) == sorted(found)


def test_wheel_tells_type_checkers_that_it_is_typed(wheel):
    assert "mergekit_diff/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_version_is_the_same_wherever_it_is_written():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert mergekit_diff.__version__ == project["version"] == str(citation["version"])


def test_citation_file_has_what_its_schema_demands():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software" and citation["message"] and citation["authors"]
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= set(paper) and "2507.12771" in paper["url"]


def test_oldest_versions_are_the_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    lower = dict(re.findall(r"^([\w.-]+)(?:\[\w+\])?>=([\d.]+)", "\n".join(project["dependencies"] + extras), re.M))
    oldest = dict(re.findall(r"^([\w.-]+)==([\d.]+)$", (ROOT / ".ci/oldest.txt").read_text(), re.M))
    assert {"torch", "diffusers", "transformers"} <= set(oldest)
    for name, version in oldest.items():
        assert version == lower[name] or version.startswith(f"{lower[name]}."), name


def test_wheel_has_no_top_level_package_but_its_own(wheel):
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mergekit_diff"}


def test_installed_package_is_the_wheels(installed, tmp_path):
    code = "import mergekit_diff, mergekit_diff.strategies as s; print(mergekit_diff.__file__); print(s.__file__)"
    done = run(installed / "python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(Path(line).is_relative_to(installed.parent) for line in done.stdout.split())


def test_list_runs_from_another_folder(installed, tmp_path):
    done = run(installed / "mergekit-diff", "list", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("retom", "tomesd", "random-dest", "dynamic-ratio", "downsample", "cosine", "by-stage", "by-depth"):
        assert name in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_strategy_of_another_distribution_is_found_by_its_entry_point_alone(installed, tmp_path):
    (packages,) = installed.parent.glob("lib/python*/site-packages")
    (packages / "elsewhere.py").write_text(PLUG_IN)
    record = packages / "elsewhere-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text("[mergekit_diff.plugins]\nelsewhere = elsewhere\n")
    done = run(installed / "mergekit-diff", "list", "strategy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "from-elsewhere" in done.stdout and "retom" in done.stdout


def test_quickstart_of_two_prompts_runs_from_the_wheel(installed, tmp_path):
    words = ('prompts=["a noto apple", "a flat cat"]', "steps=2", "threads=1", "speed=false", "costs=false", "out=runs/two")
    done = run(installed / "mergekit-diff", "run", "quickstart", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    cells = yaml.safe_load((ROOT / "experiments/studies/quickstart.yaml").read_text())["sweep"]["strategy"]["values"]
    lines = [line for file in (tmp_path / "runs/two/results").glob("rank*.jsonl") for line in file.read_text().splitlines()]
    assert len(lines) == 2 * (1 + len(cells))
    assert "a noto apple" in (tmp_path / "runs/two/report.html").read_text()


def test_import_leaves_torch_out(tmp_path):
    code = "import sys, mergekit_diff; dir(mergekit_diff); print(mergekit_diff.__version__, 'torch' in sys.modules)"
    done = run(sys.executable, "-c", code, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.split()[1] == "False", done.stderr


def test_public_names_are_all_there():
    for name in set(mergekit_diff.__all__) - {"attach"}:
        assert getattr(mergekit_diff, name).__name__ == name
    assert mergekit_diff.attach is mergekit_diff.merging
    assert dir(mergekit_diff) == sorted(mergekit_diff.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'mergeing'"):
        _ = mergekit_diff.mergeing


def test_library_imports_no_strategy_and_strategies_no_experiment():
    for folder, words in (("mergekit_diff", ("strategies", "experiments")), ("strategies", ("experiments",))):
        for path in (ROOT / folder).rglob("*.py"):
            imports = [line for line in path.read_text().splitlines() if line.lstrip().startswith(("import ", "from "))]
            assert not [line for line in imports if any(word in line for word in words)], path.name
