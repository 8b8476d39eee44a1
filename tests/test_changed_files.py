"""A report of files that somebody changed is made or refused in a line; an error of our own is a traceback."""

import copy
import json
import random

import pytest
import yaml
from synthetic_run import synthetic_run

from mergekit_diff.experiments.cli import main
from mergekit_diff.experiments.report import report
from mergekit_diff.experiments.results.run import Run

GONE = object()
VALUES = (GONE, None, "x", "", [], {}, -1, 0, 1.5, 1e99, 1e308, 10**400, True, [3], {"x": 3}, float("nan"), "base")
KEYS = {"config.yaml": 4, "costs.json": 3, "sets.json": 3, "maps": 6, "results/rank0.jsonl": 3}
"""By file, how deep it is changed."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = synthetic_run(tmp_path_factory.mktemp("run"), cells=("a", "b"), prompts=2, side=8, parts=("costs", "sets", "maps"))
    (folder.path / "speed.csv").write_text("variant,block,layer,plan,merge,ratio\nbase,1,1,,,1\n")
    return folder.path


def places(data, depth):
    """The path of everything inside some data, of lists the first entry."""
    yield ()
    if depth and isinstance(data, dict | list) and data:
        for key in data if isinstance(data, dict) else [0]:
            yield from ((key, *rest) for rest in places(data[key], depth - 1))


def changed(data, path, value):
    """A copy with another value at a path, or without the one that was there."""
    if not path:
        return {} if value is GONE else value
    data = copy.deepcopy(data)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    if value is GONE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return data


def spoil(file, draw, depth):
    """Change one value of one line of a file; says which."""
    lines = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
    at = draw.randrange(len(lines))
    data = yaml.safe_load(lines[at]) if file.suffix == ".yaml" else json.loads(lines[at])
    path, value = draw.choice(list(places(data, depth))), draw.choice(VALUES)
    new = changed(data, path, value)
    lines[at] = yaml.safe_dump(new) if file.suffix == ".yaml" else json.dumps(new)
    file.write_text("\n".join(lines) + "\n")
    return f"{file.name} {path}: {'gone' if value is GONE else str(value)[:20]}"


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("seeds", [range(2), pytest.param(range(2, 60), marks=pytest.mark.nightly)], ids=["few", "many"])
def test_any_changed_value_is_shown_or_refused_in_a_line(seeds, name, run, capsys):
    file = min((run / name).iterdir()) if name == "maps" else run / name
    good = file.read_bytes()
    for seed in seeds:
        what = spoil(file, random.Random(seed), KEYS[name])
        try:
            code = main(["report", str(run)])
        except Exception as error:
            error.add_note(what)
            raise
        finally:
            file.write_bytes(good)
        said = capsys.readouterr().err
        assert (code, len(said.splitlines())) in ((0, 0), (2, 1)), f"{what}: {said}"


@pytest.mark.parametrize("error", [AttributeError, TypeError, KeyError, ZeroDivisionError])
def test_a_bug_of_the_report_is_a_traceback(error, run, monkeypatch):
    def bug(run):
        raise error("a bug")

    monkeypatch.setattr(report, "verdict", bug)
    with pytest.raises(error, match="a bug"):
        main(["report", str(run)])


def test_the_place_of_a_wrong_value_is_named(run, capsys):
    file = run / "costs.json"
    good = file.read_text()
    file.write_text(good.replace('"plan_ms": 1.0', '"plan_ms": "soon"'))
    try:
        assert main(["report", str(run)]) == 2
    finally:
        file.write_text(good)
    assert "costs.json, got 'soon' at a.plan_ms" in capsys.readouterr().err
    assert Run.read(run).costs["a"]["plan_ms"] == 1.0
