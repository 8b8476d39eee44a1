"""Imports point one way: no floor imports one above it, and no module, through whatever others, itself.

Read from the source of every module, imports inside functions too, so that a circle cannot hide where it does no harm yet.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"mergekit_diff": ROOT / "mergekit_diff", "mergekit_diff.strategies": ROOT / "strategies",
            "mergekit_diff.experiments": ROOT / "experiments"}  # fmt: skip
EXPERIMENTS = (
    ("extra", "files", "openmp", "provenance", "reading", "terminal"),
    *((name,) for name in ("tasks", "metrics", "models", "study", "results", "report", "tracking", "bench", "probe", "run")),
    ("models.embedded",),
    ("listing", "cli"),
)
FLOORS = (
    ("mergekit_diff",),
    ("mergekit_diff.strategies",),
    *[tuple(f"mergekit_diff.experiments.{name}" for name in names) for names in EXPERIMENTS],
    ("mergekit_diff.experiments",),
)
"""From below; a module belongs to the floor of its longest prefix."""
MOST_FILES, MOST_LINES = 12, 300


def modules():
    """Source file of every module."""
    found = {}
    for package, folder in PACKAGES.items():
        for file in folder.rglob("*.py"):
            parts = file.relative_to(folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = file
    return found


def imports(name, source, is_package, known):
    """(line, module) for every import in a source text that means one of the known modules."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".") if is_package else name.split(".")[:-1]
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])
            targets = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]
        else:
            continue
        yield from dict.fromkeys((node.lineno, target) for target in targets if target in known)


def floor(module):
    """Number of a module's floor."""
    inside = [(len(name), i) for i, names in enumerate(FLOORS) for name in names if f"{module}.".startswith(f"{name}.")]
    return max(inside)[1]


def called(i):
    """A floor by its names."""
    return ", ".join(name.removeprefix("mergekit_diff.experiments.") for name in FLOORS[i])


def upward(found):
    """File, line and both floors of every import of a higher floor."""
    return [
        f"{file.relative_to(ROOT)}:{line}: {called(floor(name))} imports {target} of {called(floor(target))}"
        for name, file in sorted(found.items())
        for line, target in imports(name, file.read_text(), file.name == "__init__.py", found)
        if floor(target) > floor(name)
    ]


def circles(edges):
    """Every set of modules that import each other, in whatever way."""
    reached = {name: _reached(name, edges) for name in edges}
    sets = {frozenset(other for other in reached[name] if name in reached[other]) for name in edges if name in reached[name]}
    return sorted(sorted(one) for one in sets)


def _reached(name, edges):
    seen, todo = set(), list(edges[name])
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += edges[module]
    return seen


def graph(found):
    return {
        name: {target for _, target in imports(name, file.read_text(), file.name == "__init__.py", found)} - {name}
        for name, file in found.items()
    }


def test_no_floor_imports_a_higher_one():
    assert not (wrong := upward(modules())), "\n".join(wrong)


def test_no_module_imports_itself_through_others():
    assert not (found := circles(graph(modules()))), "\n".join(" <-> ".join(one) for one in found)


@pytest.mark.parametrize(
    ("text", "is_package", "line", "target"),
    [
        ("def f():\n    from . import c", False, 2, "a.b.c"),
        ("from .. import d", False, 1, "a.d"),
        ("from . import c", True, 1, "a.b.x.c"),
        ("from ..d import name", False, 1, "a.d"),
        ("import a.d", False, 1, "a.d"),
        ("from a import d", False, 1, "a.d"),
        ("from a import name", False, 1, "a"),
    ],
)
def test_an_import_is_found_wherever_it_stands_and_however_it_is_written(text, is_package, line, target):
    known = {"a", "a.d", "a.b", "a.b.c", "a.b.x", "a.b.x.c"}
    assert list(imports("a.b.x", text, is_package, known)) == [(line, target)]


def test_a_circle_and_an_upward_import_are_caught(tmp_path, monkeypatch):
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    below, above = tmp_path / "files.py", tmp_path / "cli.py"
    below.write_text("def f():\n    from .cli import main\n")
    above.write_text("from .files import f\n")
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (wrong,) = upward({"mergekit_diff.experiments.files": below, "mergekit_diff.experiments.cli": above})
    assert wrong.startswith(
        "files.py:2: extra, files, openmp, provenance, reading, terminal imports mergekit_diff.experiments.cli"
    )


def test_experiments_has_few_files_beside_its_folders():
    assert len([path for path in PACKAGES["mergekit_diff.experiments"].iterdir() if path.is_file()]) <= MOST_FILES


def test_no_file_is_long():
    long = {str(file.relative_to(ROOT)): lines for file in modules().values()
            if (lines := len(file.read_text().splitlines())) > MOST_LINES}  # fmt: skip
    assert not long
