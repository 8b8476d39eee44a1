"""Tasks: what is written is read back, and a study judges a model by metrics of its task."""

import pytest
import torch
from PIL import Image

from mergekit_diff.experiments.metrics import metrics
from mergekit_diff.experiments.models import MODELS, Model, task_of
from mergekit_diff.experiments.study.config import Primary
from mergekit_diff.experiments.study.loading import build
from mergekit_diff.experiments.tasks import PICTURE

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
