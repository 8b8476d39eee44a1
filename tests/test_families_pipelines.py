"""Merging in whole pipelines of transformers and videos, as users load them: from a folder, from the prompt to the output."""

from functools import cache

import pytest
import torch
import yaml
from tiny_pipelines import PIPELINES, generate, load, save

from mergekit_diff import merging
from mergekit_diff.experiments.cli import main
from mergekit_diff.experiments.results.run import Run
from mergekit_diff.experiments.study.rehearsal import planning_for
from mergekit_diff.target import denoisers_of

STRATEGIES = planning_for(2)
ROTATION = {name: STRATEGIES[i % len(STRATEGIES)] for i, name in enumerate(PIPELINES)}
PAIRS = [
    pytest.param(name, strategy, marks=() if ROTATION[name] == strategy else pytest.mark.nightly)
    for name in PIPELINES
    for strategy in STRATEGIES
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a pipeline."""

    @cache
    def saved(name):
        path = tmp_path_factory.mktemp(name)
        save(name, path)
        return path

    return saved


@pytest.fixture(scope="module")
def pipeline(folder):
    """A pipeline that was saved and loaded again, with the arguments of a call."""
    return cache(lambda name: load(folder(name)))


@pytest.mark.parametrize(("name", "strategy"), PAIRS)
def test_same_seed_gives_the_same_output_and_leaving_gives_the_base(name, strategy, pipeline, count_hooks):
    pipe, arguments = pipeline(name)
    base = generate(pipe, arguments)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    with merging(pipe, strategy, strict=True) as session:
        merged = generate(pipe, arguments)
        other = generate(pipe, arguments, seed=1)
        assert torch.equal(generate(pipe, arguments), merged)
    assert torch.equal(torch.get_rng_state(), state)
    assert merged.isfinite().all() and not torch.equal(merged, base) and not torch.equal(merged, other)
    assert session.report().granted > (0 if strategy == "ca-tome" else 0.25)  # which merges as many as are alike
    assert torch.equal(generate(pipe, arguments), base)
    assert all(count_hooks(denoiser) == 0 for denoiser in denoisers_of(pipe)[1].values())


@pytest.mark.parametrize("role", ("self_attention", "block"))
@pytest.mark.parametrize("name", PIPELINES)
def test_half_of_the_tokens_merge_at_every_site(name, role, pipeline):
    pipe, arguments = pipeline(name)
    with merging(pipe, "retom", window=2, ratio=0.5, roles=role, refresh=2) as session:
        generate(pipe, arguments)
    rows = [row for row in session.report().to_dicts() if "over time" not in row["note"]]
    calls = {row["calls"] for row in rows}
    assert {row["granted"] for row in rows} == {0.5} and len(calls) == 1 and calls <= {4, 8}
    assert {row["plans"] for row in rows} <= {1, 2, 4}


@pytest.mark.parametrize("steps", (4, 20))
@pytest.mark.parametrize("name", PIPELINES)
def test_steps_and_progress_are_those_of_the_schedule(name, steps, pipeline):
    pipe, arguments = pipeline(name)
    seen = set()
    with merging(pipe, "random-dest", refresh=1) as session:
        session.observe(lambda x, ctx, plan, made: seen.add((ctx.step, ctx.num_steps, round(ctx.progress, 6))))
        generate(pipe, arguments, steps)
    times = [float(t) for t in pipe.scheduler.timesteps]
    shares = [round((times[0] - t) / (times[0] - times[-1]), 6) for t in times]
    assert len(times) == steps and sorted(seen) == [(step, steps, share) for step, share in enumerate(shares)]


def test_each_denoiser_of_a_pair_merges_in_its_own_steps(pipeline):
    pipe, arguments = pipeline("wan")
    seen = {}
    with merging(pipe, "retom", window=2, refresh=1) as session:
        session.observe(lambda x, ctx, plan, made: seen.setdefault(ctx.site.split(".")[0], set()).add(ctx.step))
        generate(pipe, arguments)
    assert seen == {"transformer": {0, 1}, "transformer_2": {2, 3}}


def test_one_plan_serves_both_calls_of_a_pipeline_that_guides(pipeline):
    pipe, arguments = pipeline("wan")
    made = {}
    for scale in (1.0, 3.0):
        for share in (None, ()):
            with merging(pipe, "retom", window=2, refresh=1, share=share) as session:
                generate(pipe, arguments | {"guidance_scale": scale})
            made[scale, share] = {row["plans"] for row in session.report().to_dicts()}
            assert {row["planned"] for row in session.report().to_dicts()} == {2}
    assert made == {(1.0, None): {2}, (1.0, ()): {2}, (3.0, None): {2}, (3.0, ()): {4}}


@pytest.mark.parametrize("name", ("sd3", "pixart", "qwen_image", "z_image"))
def test_studies_and_single_images_take_a_pipeline_of_images(name, folder, tmp_path):
    words = [f"model={folder(name)}", "steps=2", "strategy={name: retom, window: 2}", "threads=1", "device=cpu"]
    assert main(["generate", "a noto apple", *words, f"out={tmp_path / 'one'}"]) == 0
    assert len(list((tmp_path / "one").glob("*.png"))) == 1
    study = {"prompts": ["a noto apple"], "metrics": ["psnr"], "costs": False, "wandb": {"mode": "disabled"}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study | {"out": str(tmp_path / "run")}))
    assert main(["run", str(tmp_path / "study.yaml"), *words]) == 0
    rows = Run.read(tmp_path / "run").rows
    assert [row.role for row in rows] == ["base", "cell"] and rows[1].granted == 0.5
    assert all((tmp_path / "run" / row.image).exists() for row in rows)
