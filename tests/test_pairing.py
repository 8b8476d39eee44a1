"""What cells are compared with: a control, the base, or a repeat of themselves."""

import json

import pytest

from mergekit_diff import gate
from mergekit_diff.experiments.cli import main
from mergekit_diff.experiments.results.folder import RunFolder
from mergekit_diff.experiments.study.jobs import jobs
from mergekit_diff.experiments.study.loading import build
from mergekit_diff.experiments.study.sweep import cells

RATIOS = {"strategy.ratio": {"values": [0.25, 0.5]}}


def strategies(*listed):
    return {"strategy.name": {"values": list(listed)}}


def planned(**raw):
    return cells(build(raw))


def repeats(**raw):
    return [cell for cell in planned(**raw) if cell.is_repeat]


def test_a_random_control_is_repeated_with_another_merging_seed():
    every = planned(sweep=strategies("retom-paper", "tomesd") | RATIOS, control={"strategy.name": "tomesd"})
    repeat, control = every[-1], next(cell for cell in every if cell.is_control)
    assert (repeat.name, repeat.against, repeat.role) == ("tomesd, ratio=0.25 again", "tomesd, ratio=0.25", "repeat")
    assert repeat.strategy == control.strategy and repeat.image_settings() == control.image_settings()
    assert repeat.merging == control.merging | {"seed": 1} and repeat.study.merging.seed == 1
    assert repeat.values == control.values | {"merging.seed": 1}
    assert [cell.role for cell in every] == ["cell", "cell", "control", "control", "repeat"]


def test_without_a_random_control_the_first_random_cell_is_repeated():
    (repeat,) = repeats(sweep=strategies("retom-paper", "tomesd", "random-dest"), control={"strategy.name": "retom-paper"})
    assert (repeat.name, repeat.against) == ("tomesd again", "tomesd")


@pytest.mark.parametrize(
    "raw",
    [
        {"control": {}},
        {"control": {"strategy.name": "tomesd"}, "repeat": False},
        {"control": {"strategy.name": "retom-paper"}, "sweep": strategies("retom-paper", "downsample")},
        {"control": {}, "metrics": ["text"], "primary": {"metric": "text", "better": "higher"}},
    ],
    ids=["no control", "turned off", "nothing random", "against the base without asking"],
)
def test_no_cell_is_added_otherwise(raw):
    assert repeats(**({"sweep": strategies("retom-paper", "tomesd")} | raw)) == []


@pytest.mark.parametrize("control", [{"strategy.ratio": 0.25}, {"merging.seed": 0}])
def test_a_sweep_of_the_merging_seed_goes_on_working(control):
    every = planned(strategy={"name": "tomesd"}, sweep=RATIOS | {"merging.seed": {"values": [0, 4]}}, control=control)
    assert [cell.merging["seed"] for cell in every] == [0, 4, 0, 4, 5]
    assert sum(cell.is_control for cell in every) == 2 and every[-1].is_repeat
    assert len(jobs(every, "model")) == len(build({}).prompts) * (1 + len(every))


def test_a_random_sweep_and_swept_settings_of_images_can_be_repeated():
    sweep = strategies("retom-paper", "tomesd") | {"steps": {"values": [2, 4]}}
    every = planned(sweep=sweep, sweep_method="random", sweep_count=4, control={"strategy.name": "tomesd"})
    assert len(every) == 5 and every[-1].base().name == f"base (steps={every[-1].study.steps})"


QUALITY = {"metrics": ["text", "kid", "feature", "psnr"]}


@pytest.mark.parametrize(("metric", "control"), [("text", "base"), ("kid", "base"), ("kid", {})])
def test_quality_may_be_compared_with_the_base(metric, control):
    raw = QUALITY | {
        "strategy": {"name": "retom-paper"},
        "primary": {"metric": metric},
        "sweep": RATIOS | {"steps": {"values": [2, 4]}},
        "control": control,
    }
    assert {(cell.name, cell.against) for cell in planned(**raw)} == {
        (f"ratio={ratio}, steps={steps}", f"base (steps={steps})") for ratio in (0.25, 0.5) for steps in (2, 4)
    }


def test_a_study_against_the_base_repeats_a_random_cell():
    (repeat,) = repeats(**QUALITY, primary={"metric": "text"}, sweep=strategies("retom-paper", "tomesd"), control="base")
    assert (repeat.name, repeat.against) == ("tomesd again", "tomesd")


def test_fidelity_without_a_control_is_compared_with_nothing():
    assert [cell.against for cell in planned(primary={"metric": "feature"}, sweep=RATIOS)] == [None, None]


@pytest.fixture
def words(command):
    raw = {"prompts": ["a cat", "a dog"], "steps": 2, "metrics": ["psnr"], "repeat": True, "wandb": {"mode": "disabled"}}
    return command(**raw, sweep=strategies("retom-paper", "tomesd"), control={"strategy.name": "tomesd"})


def test_the_repeat_has_images_rows_and_costs_of_its_own(words, tmp_path):
    assert main([*words, "primary={metric: psnr, better: higher}"]) == 0
    folder = RunFolder(tmp_path / "out")
    rows = {(row.cell, row.prompt): row for row in folder.rows().values()}
    assert len(rows) == 2 * 4
    for prompt in ("a cat", "a dog"):
        repeat, control = rows["tomesd again", prompt], rows["tomesd", prompt]
        assert (repeat.role, repeat.against, repeat.base) == ("repeat", "tomesd", control.base)
        assert (folder.path / repeat.image).read_bytes() != (folder.path / control.image).read_bytes()
    assert set(json.loads((folder.path / "costs.json").read_text())) == {"base", "retom-paper", "tomesd", "tomesd again"}


def test_the_repeat_merges_where_its_cell_does(words, tmp_path, monkeypatch):
    timings = iter(range(1, 1000))
    monkeypatch.setattr(gate, "estimate", lambda *_: gate.Estimate(saves=2.0 * (next(timings) % 3), costs=1.0))
    assert main([*words, "merging.gate=auto"]) == 0
    folder = RunFolder(tmp_path / "out")
    assert set(folder.gates()) == {"retom-paper", "tomesd"}
    cell, repeat = (
        [row.merging["gate"] for row in folder.rows().values() if row.cell == name] for name in ("tomesd", "tomesd again")
    )
    assert cell == repeat == ["auto", "auto"]
    kept = {row.cell: row.kept for row in folder.rows().values()}
    assert kept["tomesd"] == kept["tomesd again"]


def test_a_study_against_the_base_by_a_set_runs_to_its_end(words, tmp_path):
    more = [
        "metrics=[psnr, kid]",
        "primary={metric: kid}",
        "control=base",
        "model=emoji",
        "prompts=[a flat cat, a noto dog, a 3d car, a flat sun]",
    ]
    assert main([*words, *more]) == 0
    against = {row.cell: row.against for row in RunFolder(tmp_path / "out").rows().values()}
    assert against == {"base": None, "retom-paper": "base", "tomesd": "base", "tomesd again": "tomesd"}
