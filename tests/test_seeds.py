"""Noise: another one for every prompt, the same for the base and all cells of a prompt, for merging as for images."""

import pytest

from mergekit_diff.experiments.run import call, result, runner, single
from mergekit_diff.experiments.study import jobs
from mergekit_diff.experiments.study.loading import build, read_prompts
from mergekit_diff.experiments.study.seeds import merging_seed, noise_seed
from mergekit_diff.experiments.study.sweep import cells
from mergekit_diff.experiments.tasks import PICTURE

STRATEGIES = [{"name": "tomesd", "ratio": 0.5}, {"name": "random-dest", "ratio": 0.5}]


@pytest.fixture
def seen(monkeypatch):
    """(prompt, noise seed) of every image that is generated, and the seeds of all sessions of cells."""
    images, sessions = [], []
    generate, merging = type(PICTURE).generate, result.merging

    def watched(self, pipe, prompt, seed, **options):
        images.append((prompt, seed))
        return generate(self, pipe, prompt, seed, **options)

    def seeded(*args, **options):
        sessions.append(options["seed"])
        return merging(*args, **options)

    monkeypatch.setattr(type(PICTURE), "generate", watched)
    monkeypatch.setattr(result, "merging", seeded)
    return images, sessions


def test_seeds_are_the_same_on_every_machine():
    assert noise_seed("a noto apple", 0) == 4787497159137913105
    assert merging_seed(0, "Zürich", 3) == 6738623422499336287


def test_no_two_images_share_a_seed():
    prompts = [*read_prompts("imagenet-1000"), *read_prompts("emoji-64"), "a", "a1", ""]
    numbers = (0, 1, 11)
    seeds = [noise_seed(prompt, i) for prompt in prompts for i in numbers]
    seeds += [merging_seed(study, prompt, i) for prompt in prompts for i in numbers for study in (0, 1)]
    assert len(seeds) == len(set(seeds)) == 9 * len(prompts)
    assert 2**62 < max(seeds) < 2**63 and min(seeds) >= 0


def test_the_base_and_all_cells_of_a_prompt_share_a_noise_that_no_other_prompt_has(model, seen, tmp_path):
    raw = {"model": model, "prompts": ["a cat", "a dog"], "seeds": 2, "steps": 1, "metrics": ["psnr"], "costs": False}
    raw |= {"sweep": {"strategy": {"values": STRATEGIES}}, "wandb": {"mode": "disabled"}, "out": str(tmp_path / "out")}
    assert runner.run(build(raw), ["run", "x"]) == 0
    images, sessions = seen
    assert len(images) == 2 * 2 * 3 and len(set(images)) == len({seed for _, seed in images}) == 2 * 2
    assert sessions == [merging_seed(0, prompt, i) for prompt in raw["prompts"] for i in range(2) for _ in STRATEGIES]


def test_a_single_image_has_the_noise_that_a_study_gives_it(model, seen, tmp_path):
    words = [f"model={model}", "steps=1", "metrics=[psnr]", "strategy=tomesd", "merging.seed=5", f"out={tmp_path / 'out'}"]
    assert single.generate(single.single_study("a cat", words)) == 0
    assert seen == ([("a cat", noise_seed("a cat", 0))] * 2, [merging_seed(5, "a cat", 0)])


def test_rows_keep_the_number_of_the_study():
    study = build({"prompts": ["a cat"], "sweep": {"merging.seed": {"values": [0, 7]}}})
    rows = [job.record() for job in jobs.jobs(cells(study), "model")]
    assert [row["merging"] and row["merging"]["seed"] for row in rows] == [None, 0, 7]


def test_ids_change_with_the_noise_that_decides_the_image(monkeypatch):
    (cell,) = cells(build({"strategy": {"name": "tomesd"}}))

    def ids():
        return jobs.job_id(cell.base(), "model", "a", 0), jobs.job_id(cell, "model", "a", 0)

    base, merged = ids()
    monkeypatch.setattr(jobs, "merging_seed", lambda *_: 1)
    assert ids()[0] == base and ids()[1] != merged
    monkeypatch.undo()
    monkeypatch.setattr(jobs, "noise_seed", lambda *_: 1)
    assert ids()[0] != base and ids()[1] != merged


def test_a_pipeline_is_called_with_the_mixed_seed_whatever_its_task(pipe, monkeypatch):
    given = []

    class Sound(type(PICTURE)):
        def generate(self, pipe, prompt, seed, **options):
            given.append(seed)

    monkeypatch.setattr(call, "task_of", lambda _: Sound())
    call.call_pipeline(pipe, cells(build({}))[0], "a hum", 2)
    assert given == [noise_seed("a hum", 2)]
