"""Studies: each one validates, finds its control, and runs through the same code on tiny random components."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mergekit_diff.experiments.bench import overhead
from mergekit_diff.experiments.results.folder import RunFolder
from mergekit_diff.experiments.results.run import Run
from mergekit_diff.experiments.results.tables import layers_table
from mergekit_diff.experiments.run.runner import run
from mergekit_diff.experiments.study.config import Primary
from mergekit_diff.experiments.study.loading import STUDIES, build, load_study
from mergekit_diff.experiments.study.sweep import cells

NAMES = sorted(file.stem for file in STUDIES.glob("*.yaml"))
ASKED = [name for name in NAMES if name != "quickstart"]


def rows(study):
    return [row.to_json() for row in RunFolder(Path(study.out)).rows().values()]


@pytest.mark.parametrize("name", ASKED)
def test_a_study_says_what_it_asks_and_every_other_cell_has_a_control(name):
    study = load_study(name)
    assert study.question.endswith("?") and study.hypothesis
    assert isinstance(study.primary, Primary) and study.primary.metric in study.metrics
    planned = cells(study)
    controls = {cell.base().name for cell in planned} if study.control == "base" else {c.name for c in planned if c.is_control}
    assert controls and all(cell.against in controls for cell in planned if cell.role == "cell")
    assert all(cell.merging["levels"] for cell in planned), "strategies' own levels differ"


@pytest.mark.parametrize("name", ["sd15-imagenet", "staleness"])
def test_a_study_runs_to_its_verdict_on_tiny_components(name, model, tmp_path, capsys):
    study = replace(
        load_study(name), model=model, prompts=["a cat", "a dog"], seeds=1, steps=4, size=None, out=str(tmp_path / "out")
    )
    study = replace(study, metrics=["feature", "psnr"], primary=Primary("feature", "lower"), threads=1)
    assert run(study, ["run", name]) == 0
    made = rows(study)
    assert len(made) == 2 * (1 + len(cells(study)))
    said, complaints = capsys.readouterr()
    assert "Against" in said and "2 prompts" in said
    assert "W&B" not in complaints, complaints
    calls = 5 if study.scheduler == "pndm" else 4  # PLMS calls the denoiser once more, at a timestep that it has had
    assert all(len(row["step_seconds"]) == calls for row in made)
    merged = [row for row in made if row["role"] != "base"]
    assert all(len(row["drift"]) == calls and len(row["kept"]) == 4 for row in merged)
    assert all(0 < share < 1 for row in merged for share in row["kept"])
    assert ("stale" in merged[0]) == (name == "staleness")
    assert (tmp_path / "out" / "report.html").exists() and (tmp_path / "out" / "wandb").is_dir()


def test_cells_are_compared_with_the_control_of_their_own_ratio():
    sweep = {"strategy.name": {"values": ["retom-paper", "tomesd"]}, "strategy.ratio": {"values": [0.25, 0.5]}}
    planned = cells(build({"sweep": sweep, "control": {"strategy.name": "tomesd"}}))
    assert {cell.name: cell.against for cell in planned} == {
        "retom-paper, ratio=0.25": "tomesd, ratio=0.25",
        "retom-paper, ratio=0.5": "tomesd, ratio=0.5",
        "tomesd, ratio=0.25": None,
        "tomesd, ratio=0.5": None,
        "tomesd, ratio=0.25 again": "tomesd, ratio=0.25",
    }


def test_every_cell_has_a_name_of_its_own():
    values = ["retom-paper", {"name": "retom-paper", "ratio": 0.25}, "tomesd", {"name": "random-dest", "ratio": 0.25}]
    assert [cell.name for cell in cells(build({"sweep": {"strategy": {"values": values}}}))] == [
        "retom-paper",
        "retom-paper(ratio=0.25)",
        "tomesd",
        "random-dest",
    ]


def test_an_undisturbed_cell_has_no_drift_and_an_old_plan_grows_stale(model, tmp_path):
    raw = {
        "model": model,
        "prompts": ["a cat"],
        "steps": 5,
        "out": str(tmp_path / "out"),
        "metrics": ["psnr"],
        "probes": ["staleness"],
    }
    raw |= {"sweep": {"strategy.ratio": {"values": [0, 0.5]}}, "merging": {"refresh": 3}, "wandb": {"mode": "disabled"}}
    study = build(raw)
    assert run(study, ["run", "x"]) == 0
    _, still, moved = rows(study)
    assert still["drift"] == [0.0] * 5
    assert all(drift > 0 for drift in moved["drift"])
    assert moved["stale"][0] == moved["stale"][3] == 0
    assert all(0 < moved["stale"][step] <= 1 for step in (1, 2, 4))


def test_errors_of_layers_leave_the_images_as_they_are(model, tmp_path):
    raw = {"model": model, "prompts": ["a cat"], "steps": 3, "metrics": ["layer"], "out": str(tmp_path / "out")}
    raw |= {"strategy": {"name": "tomesd"}, "sweep": {"strategy.ratio": {"values": [0, 0.25, 0.5]}}, "costs": False}
    raw |= {"control": {"strategy.ratio": 0.25}, "repeat": False, "wandb": {"mode": "disabled"}}
    study = build(raw | {"primary": {"metric": "layer", "better": "lower"}})
    assert run(study, ["run", "x"]) == 0
    base, still, little, much = rows(study)
    images = [(Path(study.out) / row["image"]).read_bytes() for row in (base, still, little, much)]
    assert len(set(images)) == 1 and little["drift"] == much["drift"] == [0.0] * 3
    assert "layer" not in base and "layer" not in still and "layers" not in still
    assert set(little["layers"]) == set(much["layers"]) and all(len(steps) == 3 for steps in much["layers"].values())
    every = [value for steps in much["layers"].values() for value in steps]
    assert much["layer"] == pytest.approx(sum(every) / len(every)) and 0 < little["layer"] < much["layer"]
    table = layers_table(Run.read(Path(study.out)).rows)
    assert table[0] == ["cell", *much["layers"]] and [line[0] for line in table[1:]] == ["ratio=0.25", "ratio=0.5"]
    assert "the images are those without merging" in " ".join((tmp_path / "out" / "report.html").read_text().split())


def test_errors_of_layers_are_measured_alone():
    with pytest.raises(ValueError, match=r"metrics: expected layer alone, .* got also psnr"):
        build({"metrics": ["layer", "psnr"]})
    with pytest.raises(ValueError, match="cache: expected none with the metric layer"):
        build({"metrics": ["layer"], "cache": 0.1})


def test_a_large_model_in_which_cells_cannot_merge_gives_no_share_and_is_said(model, tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise ValueError("expected another role")

    monkeypatch.setattr(overhead, "block_times", refuse)
    raw = {"model": model, "prompts": ["a cat"], "steps": 1, "metrics": ["psnr"], "out": str(tmp_path / "out")}
    study = build(raw | {"wandb": {"mode": "disabled"}})
    assert run(study, ["run", "x"]) == 0
    assert "costs: no share of a step of SD 1.5 at 1024 pixels: expected another role" in capsys.readouterr().err
    costs = Run.read(tmp_path / "out").costs
    assert costs and all("flops" in cost and "share" not in cost for cost in costs.values())


def test_costs_count_what_merging_saves(model, tmp_path):
    raw = {"model": model, "prompts": ["a cat"], "steps": 2, "out": str(tmp_path / "out"), "metrics": ["psnr"]}
    sweep = {"strategy.ratio": {"values": [0, 0.5, 0.75]}}
    study = build(raw | {"sweep": sweep, "wandb": {"mode": "disabled"}})
    assert run(study, ["run", "x"]) == 0
    costs = json.loads((tmp_path / "out" / "costs.json").read_text())
    assert costs["base"]["flops"] > costs["ratio=0.5"]["flops"] > costs["ratio=0.75"]["flops"]
    assert costs["ratio=0.5"]["plan_ms"] > costs["base"]["plan_ms"]
    assert all(cost["attention_ms"] > 0 for cost in costs.values())
    assert costs["base"]["share"] == costs["base"]["share_flops"] == 1 and costs["base"]["share_overhead"] == 0
    shares = [costs[f"ratio={ratio}"]["share_flops"] for ratio in (0, 0.5, 0.75)]
    assert shares[0] == pytest.approx(1) and shares[2] < shares[1] < 0.99
    assert all(cost["share"] == cost["share_flops"] + cost["share_overhead"] for cost in costs.values())


MODULE = """
from dataclasses import dataclass
import torch
from mergekit_diff import MergePlan, MergeStrategy, RatioSchedule, register

@register("{name}")
@dataclass(frozen=True)
class Mine(MergeStrategy):
    '''Every second token into the one before it.'''
    ratio: RatioSchedule = 0.5
    def plan(self, x, ctx):
        target = torch.arange(x.shape[1])
        target -= target % 2
        return MergePlan.from_target(target[None], x.shape[1] // 2)
"""


@pytest.fixture
def study_of(model, tmp_path):
    def build_it(name):
        sweep = {"strategy": {"values": [{"name": "retom-paper"}, {"name": name}]}}
        raw = {
            "model": model,
            "prompts": ["a cat"],
            "steps": 2,
            "sweep": sweep,
            "metrics": ["psnr"],
            "wandb": {"mode": "disabled"},
        }
        return build(raw | {"out": str(tmp_path / "out")})

    return build_it


def test_a_strategy_of_another_package_runs_in_a_study(registry, study_of, tmp_path, monkeypatch):
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mergekit_diff.plugins]\ntheirs = their_strategy\n")
    (tmp_path / "their_strategy.py").write_text(MODULE.format(name="from-a-package"))
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    registry.load_plugins.cache_clear()
    study = study_of("from-a-package")
    assert run(study, ["run", "x"]) == 0
    assert [row["granted"] for row in rows(study)[1:]] == [0.5, 0.5]
    sys.modules.pop("their_strategy")
    registry.load_plugins.cache_clear()


def test_a_strategy_of_a_notebook_cell_runs_in_a_study(registry, study_of):
    exec(compile(MODULE.format(name="from-a-cell"), "<ipython-input-1>", "exec"), {"__name__": "__main__"})
    study = study_of("from-a-cell")
    assert run(study, ["run", "x"]) == 0
    assert rows(study)[2]["cell"] == "from-a-cell" and torch.isfinite(torch.tensor(rows(study)[2]["psnr"]))
