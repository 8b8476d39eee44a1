"""Tasks: what is written is read back, a model is called as its record says, a study judges it by metrics of its task."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tiny import tiny_flux_pipeline

from mergekit_diff.experiments.metrics import metrics
from mergekit_diff.experiments.models import MODELS, Model, load_pipeline, task_of
from mergekit_diff.experiments.results.run import Run
from mergekit_diff.experiments.run.runner import run
from mergekit_diff.experiments.study.config import Primary
from mergekit_diff.experiments.study.loading import build, override
from mergekit_diff.experiments.tasks import PICTURE, Call

TASKS = {model.task.name: model.task for model in MODELS.values()}


@pytest.fixture
def output():
    """An image of random pixels."""
    pixels = torch.randint(0, 256, (20, 30, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def test_an_image_is_read_back_to_the_bit(output, tmp_path):
    path = tmp_path / f"a{PICTURE.suffix}"
    path.write_bytes(PICTURE.encode(output))
    assert torch.equal(PICTURE.read(path), PICTURE.as_tensor(output))
    assert PICTURE.read(path).shape == (3, 20, 30)


def test_images_side_by_side_keep_their_proportions(output):
    assert PICTURE.side_by_side([output, output], side=40, gap=8).size == (60 + 8 + 60, 40)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_default_metrics_of_a_task_can_measure_it(task):
    known = metrics()
    assert {task.primary, *task.metrics} <= {name for name, metric in known.items() if task.name in metric.tasks}
    assert task.primary in task.metrics and known[task.primary].of != "set"


def test_a_study_takes_the_metrics_of_its_models_task_unless_it_names_others():
    assert build({}).metrics == list(PICTURE.metrics)
    assert build({"metrics": ["ssim", "psnr"]}).metrics == ["ssim", "psnr"]
    assert build({"primary": {"better": "lower"}}).primary == Primary(PICTURE.primary, "lower")


def test_a_metric_of_another_task_is_refused_in_one_line(monkeypatch):
    class Sound(type(PICTURE)):
        name = "sound"

    monkeypatch.setitem(MODELS, "hum", Model(MODELS["emoji"].folder, Sound()))
    assert task_of("hum").name == "sound"
    with pytest.raises(ValueError, match=r"^metrics: expected a metric for sound, got 'ssim'; possible: none$"):
        build({"model": "hum", "metrics": ["ssim"]})


# how a model is called


def test_a_record_is_read_back_and_without_one_a_model_is_called_like_most(tmp_path):
    assert task_of(str(tmp_path)).call == Call() == Call.read(tmp_path)
    record = Call("true_cfg_scale", {"negative_prompt": "", "max_sequence_length": 16})
    record.write(tmp_path)
    assert task_of(str(tmp_path)).call == record
    assert record.keywords(2.5) == {"true_cfg_scale": 2.5, "negative_prompt": "", "max_sequence_length": 16}


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"arguments": 3}', '{"guide": "a"}', '{"guidance": "prompt"}', '{"arguments": {"generator": 0}}']
)
def test_a_malformed_record_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "call.json").write_text(text)
    with pytest.raises(ValueError, match=r"^expected guidance and arguments of a call in .*call.json, got .+$"):
        task_of(str(tmp_path))


def test_the_size_that_a_study_asks_for_wins_over_the_records():
    seen = {}

    def pipe(prompt, **arguments):
        seen.update(arguments, prompt=prompt)
        return SimpleNamespace(images=["image"])

    task = replace(PICTURE, call=Call("true_cfg_scale", {"height": 64, "width": 64}))
    settings = {"steps": 2, "guidance": 3.0, "on_step_end": None}
    assert task.generate(pipe, "a cactus", 0, size=(None, None), **settings) == "image"
    assert (seen["height"], seen["width"], seen["true_cfg_scale"], seen["prompt"]) == (64, 64, 3.0, "a cactus")
    task.generate(pipe, "a cactus", 0, size=(32, 48), **settings)
    assert (seen["height"], seen["width"]) == (32, 48) and "guidance_scale" not in seen


@pytest.fixture
def flux(tmp_path):
    """The folder of a tiny FluxPipeline with a record."""
    tiny_flux_pipeline().save_pretrained(tmp_path / "flux", safe_serialization=True)
    Call("true_cfg_scale", {"negative_prompt": "", "max_sequence_length": 16}).write(tmp_path / "flux")
    return tmp_path / "flux"


def test_a_study_of_a_flux_pipeline_runs_end_to_end(flux, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "emoji-flux", Model(flux, PICTURE))
    words = ["model=emoji-flux", "steps=2", "costs=false", f"out={tmp_path / 'run'}", "threads=1"]
    words += ["strategy=random-dest", "merging.roles=[feed_forward]", "wandb.mode=disabled"]
    study = build(override({"prompts": ["a noto apple on blue", "a cactus"]}, words))
    assert run(study, ["run", *words]) == 0
    rows = Run.read(tmp_path / "run").rows
    assert len(rows) == 4 and all((tmp_path / "run" / row.image).exists() for row in rows)
    assert {row.granted for row in rows if row.role != "base"} == {0.5}


def test_guidance_of_a_study_reaches_a_flux_pipeline(flux):
    pipe, task = load_pipeline(str(flux), "cpu"), task_of(str(flux))

    def image(guidance):
        call = {"steps": 2, "guidance": guidance, "size": (None, None), "on_step_end": lambda pipe, i, t, tensors: tensors}
        return task.as_tensor(task.generate(pipe, "a noto apple on blue", 0, **call))

    assert image(1.0).shape == (3, 32, 32)
    assert torch.equal(image(4.0), image(4.0)) and not torch.equal(image(4.0), image(1.0))
