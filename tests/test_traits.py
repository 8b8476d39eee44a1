"""Traits: what toy layers show of a strategy's choice, and what else differs between a cell and its control."""

from dataclasses import dataclass, replace

import pytest
import yaml

from mergekit_diff import MergePlan, MergeStrategy, RatioSchedule, make
from mergekit_diff.experiments.cli import main
from mergekit_diff.experiments.study.choosing import drawn_from, is_scheduled, is_shared
from mergekit_diff.experiments.study.loading import STUDIES, build, load_study
from mergekit_diff.experiments.study.sweep import cells
from mergekit_diff.experiments.study.traits import differences, notes, records, traits

LINEAR = {"name": "linear", "start": 0.75, "end": 0.25}
RATIOS = (0.1, 0.5, 0.75)
DRAWN = {
    "asymrnr", "ca-tome", "dato", "dynamic-ratio", "imtome", "local-match", "random-dest", "retom", "sdtm", "sito", "tofu",
    "tomesd",
}  # fmt: skip
OWN_CHOICE = {"dynamic-ratio", "lgtm", "pitome", "retom", "retom-paper", "sito", "toma"}
KNOWN = DRAWN | OWN_CHOICE | {"abp", "downsample", "iekvd", "tome"}
OWN = "halves: own representatives in each guidance half, control: the same in both"
REPEATED = "redrawn: never, control: at every step"


def choice(spec, probe):
    strategy = make("strategy", spec)
    return probe(strategy, strategy.defaults().roles[0])


@pytest.mark.parametrize("ratio", RATIOS)
def test_strategies_that_draw_their_destinations_are_random(ratio):
    drawn = {name for name in KNOWN if choice({"name": name, "ratio": ratio}, drawn_from)}
    assert drawn == DRAWN
    assert not choice({"name": "tomesd", "ratio": ratio, "randomize": False}, drawn_from)
    assert choice({"name": "dynamic-ratio", "ratio": ratio, "inner": "tomesd", "threshold": 0.8}, drawn_from)


@pytest.mark.parametrize("ratio", RATIOS)
def test_strategies_that_choose_destinations_by_content_differ_between_the_halves(ratio):
    own = {name for name in KNOWN if not choice({"name": name, "ratio": ratio}, is_shared)}
    assert own == OWN_CHOICE | ({"dato"} if ratio < 0.75 else set())  # whose random bases alone remain at 3/4
    assert not choice({"name": "dynamic-ratio", "ratio": ratio, "threshold": 0.8}, is_shared)


def test_a_plan_of_another_class_is_looked_through_too():
    @dataclass(frozen=True)
    class Wrapped:
        plan: MergePlan

        def __getattr__(self, name):
            if name in ("num_tokens", "num_groups", "merge", "unmerge", "select", "sizes"):
                return getattr(self.plan, name)
            raise AttributeError(name)

    @dataclass(frozen=True)
    class Other(MergeStrategy):
        inner: MergeStrategy
        ratio: RatioSchedule = 0.5

        def plan(self, x, ctx):
            return Wrapped(self.inner.plan(x, ctx))

    matched, local = (Other(make("strategy", name)) for name in ("tomesd", "retom-paper"))
    assert drawn_from(matched, "self_attention") and is_shared(matched, "self_attention")
    assert not drawn_from(local, "self_attention") and not is_shared(local, "self_attention")


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({"ratio": 0.5}, False),
        ({"ratio": LINEAR}, True),
        ({"ratio": {"name": "step", "values": [0.5, 0.25], "at": [0.97]}}, True),
        ({"ratio": {"name": "by-depth"}}, False),
        ({"window": {"name": "shifted", "by": "depth"}}, False),
        ({"window": {"name": "shifted", "by": "step"}}, True),
        ({"window": {"name": "by-stage", "mid": {"name": "by-progress"}}}, True),
    ],
)
def test_a_schedule_over_the_steps_is_noticed(settings, changes):
    assert choice({"name": "retom-paper"} | settings, is_scheduled) is changes


@pytest.mark.parametrize(
    ("strategy", "refresh", "redrawn"),
    [
        ({"name": "random-dest"}, 1, "at every step"),
        ({"name": "random-dest"}, 5, "every 5 steps"),
        ({"name": "random-dest"}, 20, "never"),
        ({"name": "retom"}, 1, "at every step"),
        ({"name": "retom-paper"}, 1, "never"),
        ({"name": "retom-paper", "ratio": LINEAR}, 1, "schedule"),
        ({"name": "random-dest", "ratio": LINEAR}, 20, "schedule"),
        ({"name": "random-dest", "ratio": LINEAR}, 1, "at every step"),
    ],
)
def test_redrawn_says_when_a_choice_changes_though_the_tokens_do_not(strategy, refresh, redrawn):
    (cell,) = cells(build({"steps": 20, "strategy": strategy, "merging": {"refresh": refresh}}))
    assert traits(cell).redrawn == redrawn


def test_a_shared_plan_or_no_guidance_makes_the_halves_alike():
    raw = {"strategy": {"name": "retom-paper"}, "sweep": {"merging.share": {"values": [[], ["cfg"], ["grid"]]}}}
    assert [traits(cell).halves.split()[0] for cell in cells(build(raw))] == ["own", "the", "own"]
    assert {traits(cell).halves.split()[0] for cell in cells(build(raw | {"guidance": 1}))} == {"the"}


def test_representative_against_random_differs_in_the_halves_and_in_the_redrawing_too():
    planned = {cell.name: cell for cell in cells(load_study("representative-vs-random"))}
    cell, control = planned["retom-paper, ratio=0.5"], planned["random-dest, ratio=0.5"]
    assert differences(cell, control) == [OWN, REPEATED]
    assert notes(records(list(planned.values()))) == [
        f"retom-paper, ratio={ratio} differs from its control also in: {OWN}; {REPEATED}" for ratio in (0.5, 0.75)
    ]


def test_a_strategy_is_tried_once_for_every_cell(monkeypatch):
    tried = []

    def trying(strategy, role):
        tried.append(strategy)
        return drawn_from(strategy, role)

    planned = cells(load_study("representative-vs-random"))
    monkeypatch.setattr("mergekit_diff.experiments.study.traits.drawn_from", trying)
    records(planned)
    assert tried == [cell.strategy for cell in planned]


def test_options_that_the_strategies_set_differently_are_listed_unless_they_are_swept():
    strategies = {"strategy": {"values": ["tomesd", "downsample"]}}
    raw = {"sweep": strategies, "control": {"strategy": {"name": "tomesd"}}, "repeat": False}
    lines = ["roles: key_value, control: self_attention", "levels: all, control: 1", REPEATED]
    control, cell = cells(build(raw))
    assert differences(cell, control) == lines
    both = [{"roles": ["self_attention"], "levels": 1}, {"roles": ["key_value"], "levels": None}]
    swept = {"merging": {"values": both}, **strategies}
    planned = cells(build(raw | {"sweep": swept, "control": raw["control"] | {"merging": both[0]}}))
    assert [note.split(": ", 1)[1] for note in notes(records(planned))] == [REPEATED, REPEATED]


def test_what_the_sweep_sets_is_meant_to_differ():
    retom = {"name": "retom-paper", "ratio": 0.5}
    for sweep, control in (
        ({"merging.share": {"values": [[], ["cfg"]]}}, {"merging.share": []}),
        ({"merging.refresh": {"values": [1, 5]}}, {"merging.refresh": 1}),
        ({"strategy": {"values": [retom, retom | {"ratio": LINEAR}]}}, {"strategy": retom}),
    ):
        planned = cells(build({"strategy": retom, "sweep": sweep, "control": control}))
        assert traits(planned[0]) != traits(planned[1]) and notes(records(planned)) == []
    raw = {"sweep": {"merging.refresh": {"values": [1, 5]}, "strategy.name": {"values": ["retom-paper", "random-dest"]}}}
    planned = cells(build(raw | {"control": {"strategy.name": "random-dest"}}))
    assert [note.rpartition(": ")[2] for note in notes(records(planned))] == ["at every step", "every 5 steps"]


MEANT = {
    "beyond-unet": {"redrawn"},
    "caches": {"redrawn"},
    "destinations": {"redrawn"},
    "key-value-ratio": {"redrawn"},
    "layer-error": {"redrawn"},
    "pareto": {"roles", "redrawn"},
    "pooled-training": {"redrawn"},
    "reading": {"proportional"},
    "representative-vs-random": {"halves", "redrawn"},
    "retom-ingredients": {"redrawn"},
    "sd15-imagenet": {"refresh", "halves", "redrawn"},
    "tomesd-same-windows": {"redrawn"},
    "whole-block": {"redrawn"},
}


@pytest.mark.parametrize("name", sorted(file.stem for file in STUDIES.glob("*.yaml")))
def test_cells_of_the_packages_studies_differ_only_as_their_files_say(name):
    planned = cells(load_study(name))
    by_name = {cell.name: cell for cell in planned}
    pairs = [(cell, by_name[cell.against]) for cell in planned if cell.against in by_name]
    assert {line.split(":")[0] for pair in pairs for line in differences(*pair)} == MEANT.get(name, set())


def test_a_run_says_what_differs_before_it_makes_images_and_keeps_it(command, tmp_path, capsys, monkeypatch):
    from mergekit_diff.experiments.run.generation import Generation

    raw = {"prompts": ["a cat"], "steps": 2, "metrics": ["psnr"], "costs": False, "wandb": {"mode": "disabled"}}
    raw |= {"sweep": {"strategy": {"values": ["retom-paper", "random-dest"]}}, "control": {"strategy": "random-dest"}}
    words = command(**raw, merging={"refresh": 1})
    note = f"retom-paper differs from its control also in: {OWN}; {REPEATED}\n"
    make, said = Generation.make, []

    def listening(self, job):
        said.append(capsys.readouterr().out)
        return make(self, job)

    monkeypatch.setattr(Generation, "make", listening)
    assert main(words) == 0
    assert said[0] == note and len(said) == 4
    kept = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["traits"]
    assert list(kept) == ["retom-paper", "random-dest", "random-dest again"]
    assert (kept["retom-paper"]["random"], kept["random-dest"]["random"]) == (False, True)
    assert kept["random-dest"] == kept["random-dest again"]
    assert note not in capsys.readouterr().out
    assert main(words) == 0
    assert note not in capsys.readouterr().out


def test_a_still_draw_is_random_but_not_drawn_again_at_every_step():
    half = {"name": "retom-paper", "ratio": 0.5, "representative": "upper-half"}
    planned = cells(build({"sweep": {"strategy": {"values": [half, half | {"draw": "still"}]}}, "control": {"strategy": half}}))
    anew, still = (traits(cell) for cell in planned[:2])
    assert (anew.random, still.random) == (True, True) and planned[2].is_repeat
    assert [drawn_from(cell.strategy, "self_attention") for cell in planned[:2]] == [{"noise"}, {"still"}]
    merging = [replace(cell, merging=cell.merging | {"refresh": 1}) for cell in planned[:2]]
    assert [traits(cell).redrawn for cell in merging] == ["at every step", "never"]
