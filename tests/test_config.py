"""Studies: what YAML and key=value words mean."""

import pytest

from mergekit_diff.experiments.study.config import Primary
from mergekit_diff.experiments.study.loading import STUDIES, build, find_study, load_study, put
from mergekit_diff.experiments.study.sweep import cells

DESIGN = """
question: Does a longer cache period cost fidelity?
model: emoji
prompts: [a, b]
seeds: 2
steps: 50
guidance: 3.0
strategy: {name: retom-paper, ratio: 0.5}
merging: {refresh: 20}
sweep: {merging.refresh: {values: [1, 5, 10, 20, 25, 50]}}
sweep_method: grid
control: {merging.refresh: 1}
metrics: [psnr, ssim, feature]
primary: {metric: feature, better: lower}
wandb: {mode: offline, project: mergekit-diff}
devices: 1
out: runs/cache-period
"""


@pytest.fixture
def study_file(tmp_path):
    file = tmp_path / "cache.yaml"
    file.write_text(DESIGN)
    return str(file)


@pytest.mark.parametrize("name", [file.stem for file in STUDIES.glob("*.yaml")])
def test_every_study_of_the_package_is_whole(name):
    assert cells(load_study(name))
    assert load_study(name).question
    assert find_study(name).name == f"{name}.yaml"


def test_a_sweep_makes_a_cell_a_value_and_marks_the_control(study_file):
    made = cells(load_study(study_file))
    assert [cell.merging["refresh"] for cell in made] == [1, 5, 10, 20, 25, 50]
    assert [cell.is_control for cell in made] == [True, False, False, False, False, False]


def test_a_random_sweep_is_the_same_every_time(study_file):
    words = ["sweep={strategy.ratio: {min: 0.1, max: 0.9}}", "control={}", "sweep_method=random", "sweep_count=4"]
    first, again = (cells(load_study(study_file, words)) for _ in range(2))
    assert len(first) == 4
    assert [cell.name for cell in first] == [cell.name for cell in again]


def test_another_name_drops_the_old_fields_and_the_same_name_keeps_them():
    raw = {"strategy": {"name": "retom", "ratio": 0.3}}
    assert put(raw, "strategy", "tomesd")["strategy"] == {"name": "tomesd"}
    assert put(raw, "strategy", "retom")["strategy"] == {"name": "retom", "ratio": 0.3}
    assert put(raw, "strategy.name", "tomesd")["strategy"] == {"name": "tomesd"}
    part = put(raw, "strategy.window", {"name": "fixed", "size": 4})
    assert put(part, "strategy.window.name", "shifted")["strategy"]["window"] == {"name": "shifted"}


def test_a_sweep_of_names_drops_no_setting_in_silence(study_file):
    given = ["sweep={}", "control={}", "strategy={name: retom-paper, ratio: 0.3}"]
    names = "strategy.name: {values: [retom-paper, tomesd]}"
    with pytest.raises(ValueError, match=r"strategy\.ratio would be dropped: the sweep names another strategy, 'tomesd'"):
        cells(load_study(study_file, [*given, f"sweep={{{names}}}"]))
    made = cells(load_study(study_file, [*given, f"sweep={{{names}, strategy.ratio: {{value: 0.3}}}}"]))
    assert [cell.strategy.ratio.value for cell in made] == [0.3] * 2


def test_words_reach_the_cell(study_file):
    words = ["sweep={}", "control={}", "strategy.ratio=2.5e-1", "strategy.metric=dot", "merging.seed=7"]
    (cell,) = cells(load_study(study_file, words))
    assert cell.strategy.ratio.value == 0.25
    assert cell.strategy.metric.name == "dot"
    filled = {"refresh": 20, "roles": ["self_attention"], "levels": None, "share": [], "gate": "none", "proportional": None}
    assert cell.merging == filled | {"rotary": None, "seed": 7, "whole": None, "span": 1}


def test_a_swept_setting_reaches_the_part_that_is_swept_after_it(study_file):
    words = ["control={}", "sweep={strategy.ratio: {value: 0.3}, strategy.name: {values: [retom-paper, tomesd]}}"]
    made = cells(load_study(study_file, words))
    assert [(cell.strategy.name, cell.strategy.ratio.value) for cell in made] == [("retom-paper", 0.3), ("tomesd", 0.3)]


def test_a_swept_mapping_may_change_a_part_inside(study_file):
    words = ["control={}", "sweep={strategy: {values: [{window: {name: fixed, size: 2}}, {window: by-stage}]}}"]
    made = cells(load_study(study_file, words))
    assert [cell.strategy.window.name for cell in made] == ["fixed", "by-stage"]
    assert made[0].name == "window=fixed(size=2)"


def test_a_margin_is_a_factor_for_ratios_and_an_amount_for_differences():
    for metric, margin in (("feature", 1.1), ("psnr", 0.5), ("kid", 0.002)):
        study = build({"metrics": ["feature", "psnr", "kid"], "primary": {"metric": metric, "margin": margin}})
        assert study.primary == Primary(metric, "lower", margin)


def test_prompts_are_plain_text():
    assert build({"prompts": ["${model}", "{a}", "<b>"]}).prompts == ["${model}", "{a}", "<b>"]


def test_prompts_come_from_a_file_one_a_line(tmp_path):
    (tmp_path / "mine.txt").write_text("a red cat\n\n  a dog \n")
    assert build({"prompts": str(tmp_path / "mine.txt")}).prompts == ["a red cat", "a dog"]


def test_cells_that_differ_only_in_writing_are_the_same(study_file):
    words = ["sweep={}", "control={}", "strategy={name: retom}"]
    words.append("sweep={strategy: {values: [{name: retom}, {name: retom, ratio: 0.5}]}}")
    with pytest.raises(ValueError, match="which are the same"):
        cells(load_study(study_file, words))


def test_swept_picture_settings_have_a_base_each(study_file):
    made = cells(load_study(study_file, ["control={}", "sweep={steps: {values: [2, 4]}}"]))
    assert [cell.base().name for cell in made] == ["base (steps=2)", "base (steps=4)"]


def test_ids_of_merged_pictures_change_with_the_library_and_those_of_bases_do_not(study_file, monkeypatch):
    from mergekit_diff.experiments.study import jobs

    cell = cells(load_study(study_file))[0]

    def ids():
        return jobs.job_id(cell, "model", "a", 0), jobs.job_id(cell.base(), "model", "a", 0)

    merged, base = ids()
    monkeypatch.setattr(jobs, "library", lambda: "another")
    assert ids()[0] != merged
    assert ids()[1] == base
