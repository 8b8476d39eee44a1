"""No line of the package reads data in a way that can run code: read from the source, so that a new line is found too."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("mergekit_diff", "strategies", "experiments")
READING = ROOT / "experiments/reading.py"
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "runpy", "xmlrpc"}
NAMES = {"eval", "exec", "compile", "__import__", "input"}
CALLS = {
    "torch.load": {"weights_only": True},
    "yaml.load": None,
    "yaml.safe_load": None,
    "yaml.full_load": None,
    "yaml.unsafe_load": None,
    "yaml.load_all": None,
    "json.load": None,
    "OmegaConf.load": None,
    "np.load": {"allow_pickle": False},
    "numpy.load": {"allow_pickle": False},
    "os.system": None,
    "os.popen": None,
    "shutil.unpack_archive": None,
    "torch.hub.load": None,
    "tempfile.mktemp": None,
}
"""Calls that are wrong, or right only with these arguments."""
ALWAYS = {"trust_remote_code": False, "weights_only": True, "allow_pickle": False, "shell": False}
"""Arguments that may have this value alone, wherever they are given."""


def faults(source, own=False):
    """Line and name of whatever could run code, in a source text; ``own`` for the module that reads YAML for all others."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            tops = [getattr(node, "module", None) or "", *[alias.name for alias in node.names]]
            yield from ((node.lineno, top) for top in tops if top.split(".")[0] in MODULES)
        elif isinstance(node, ast.Call):
            name, given = ast.unparse(node.func), {word.arg: word.value for word in node.keywords}
            fixed = {arg: value for arg, value in given.items() if arg in ALWAYS}
            if name in NAMES or (name in CALLS and not _right(CALLS[name], given) and not own):
                yield node.lineno, name
            yield from ((node.lineno, arg) for arg, value in fixed.items() if not _is(value, ALWAYS[arg]))
        elif isinstance(node, ast.Dict):  # arguments that are passed on as **mapping
            named = {key.value: value for key, value in zip(node.keys, node.values, strict=True) if isinstance(key, ast.Constant)}
            yield from ((node.lineno, arg) for arg, value in named.items() if arg in ALWAYS and not _is(value, ALWAYS[arg]))


def _right(needed, given):
    return needed is not None and all(arg in given and _is(given[arg], value) for arg, value in needed.items())


def _is(node, value):
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_that_is_read_can_run(folder):
    found = [f"{file.relative_to(ROOT)}:{line}: {name}" for file in sorted((ROOT / folder).rglob("*.py"))
             for line, name in faults(file.read_text(), own=file == READING)]  # fmt: skip
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "import os, dill",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=some)",
        "yaml.safe_load(text)",
        "np.load(path)",
        "f(trust_remote_code=True)",
        "f(**{'trust_remote_code': True})",
        "eval(text)",
        "subprocess.run(text, shell=True)",
        "def f():\n    import marshal",
    ],
)
def test_such_a_line_is_found(line):
    assert list(faults(line))


@pytest.mark.parametrize(
    "line", ["torch.load(p, weights_only=True)", "np.load(p, allow_pickle=False)", "f(trust_remote_code=False)", "model.eval()"]
)
def test_a_harmless_line_is_none(line):
    assert not list(faults(line))


def test_security_names_tests_that_exist_and_ships_with_the_source():
    text = (ROOT / "SECURITY.md").read_text()
    files = {name: (ROOT / name).read_text() for name in re.findall(r"`(tests/\w+\.py)`", text)}
    named = re.findall(r"`(test_\w+)`", text)
    assert len(files) == 7 and len(named) > 20
    assert not [name for name in named if not any(f"def {name}(" in source for source in files.values())]
    assert "SECURITY.md" in (ROOT / "MANIFEST.in").read_text()
