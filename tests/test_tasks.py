"""Tasks: what is written is read back, a model is called as its record says, a study judges it by metrics of its task."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tiny import tiny_flux_pipeline

from mergekit_diff.experiments.metrics import metrics
from mergekit_diff.experiments.models import MODELS, Model, check_prompted, check_task, load_pipeline, task_of
from mergekit_diff.experiments.results.images import is_whole, open_frames
from mergekit_diff.experiments.results.run import Run
from mergekit_diff.experiments.run.runner import run
from mergekit_diff.experiments.study.config import Primary
from mergekit_diff.experiments.study.loading import build, override
from mergekit_diff.experiments.tasks import PICTURE, VIDEO, Call
from mergekit_diff.experiments.tasks.frames import in_a_row, side_by_side
from mergekit_diff.sites import find_sites

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


@pytest.fixture(scope="module")
def frames():
    """Frames of random pixels, the first twice, of which the last differs from the first in a corner alone."""
    draw = torch.Generator().manual_seed(0)
    first, second = (
        Image.fromarray(torch.randint(0, 256, (20, 30, 3), generator=draw, dtype=torch.uint8).numpy()) for _ in range(2)
    )
    last = first.copy()
    last.paste(0, (2, 3, 10, 12))
    return [first, first, second, first, last]


@pytest.mark.parametrize("chosen", [slice(5), slice(2), slice(1)], ids=["some are equal", "all are equal", "one frame"])
def test_every_frame_of_a_video_is_read_back_to_the_bit(frames, chosen, tmp_path):
    path, output = tmp_path / f"a{VIDEO.suffix}", frames[chosen]
    path.write_bytes(VIDEO.encode(output))
    assert torch.equal(VIDEO.read(path), VIDEO.as_tensor(output))
    assert VIDEO.read(path).shape == (len(output), 3, 20, 30)
    assert all(torch.equal(PICTURE.as_tensor(a), PICTURE.as_tensor(b)) for a, b in zip(open_frames(path), output, strict=True))


def test_a_video_that_is_cut_off_or_changed_anywhere_is_not_whole(frames, tmp_path):
    path, data = tmp_path / f"a{VIDEO.suffix}", VIDEO.encode(frames)
    path.write_bytes(data)
    assert is_whole(path)
    for end in (len(data) - 13, len(data) // 2, len(data) // 4, 20):
        path.write_bytes(data[:end])
        assert not is_whole(path)
        with pytest.raises(ValueError, match="expected a whole image, got"):
            open_frames(path)
    path.write_bytes(data[:-300] + bytes([data[-300] ^ 1]) + data[-299:])
    assert not is_whole(path)


def test_videos_side_by_side_have_their_frames_side_by_side(frames):
    both = side_by_side([frames, frames[::-1]], side=40, gap=8)
    assert len(both) == 5 and {frame.size for frame in both} == {(60 + 8 + 60, 40)}
    pixels = VIDEO.as_tensor(both)
    assert torch.equal(pixels[..., :60], pixels.flip(0)[..., 68:])
    with pytest.raises(ValueError):
        side_by_side([frames, frames[:2]])


def test_images_side_by_side_keep_their_proportions(output):
    assert in_a_row([output, output], side=40, gap=8).size == (60 + 8 + 60, 40)


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


# what a model makes


def test_a_folder_makes_what_its_pipeline_can_be_asked_for(tmp_path, video_model, model):
    assert (task_of(video_model).name, task_of(model).name) == ("video", "picture")
    index = tmp_path / "model_index.json"
    for name, task in (("CogVideoXPipeline", "video"), ("AnimateDiffPipeline", "video"), ("TextToVideoSDPipeline", "video"),
                       ("LTXPipeline", "video"), ("FluxPipeline", "picture"), ("NoSuchPipeline", "picture")):  # fmt: skip
        index.write_text(json.dumps({"_class_name": name}))
        assert task_of(str(tmp_path)).name == task
    for text in ("{", "[]", "{}"):
        index.write_text(text)
        assert task_of(str(tmp_path)).name == "picture"


def test_a_pipeline_that_needs_an_image_is_refused_before_it_is_loaded(tmp_path):
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps({"_class_name": "StableVideoDiffusionPipeline"}))
    with pytest.raises(ValueError, match=r"got StableVideoDiffusionPipeline, which has no prompt and needs image$"):
        build({"model": str(tmp_path)})
    index.write_text(json.dumps({"_class_name": "WanImageToVideoPipeline"}))
    with pytest.raises(ValueError, match=r"got WanImageToVideoPipeline, which needs image$"):
        build({"model": str(tmp_path)})
    Call(arguments={"image": "https://example.org/x.png"}).write(tmp_path)
    check_prompted(str(tmp_path))


def test_a_pipeline_of_another_task_than_expected_is_refused(monkeypatch):
    monkeypatch.setitem(MODELS, "clip", Model(MODELS["emoji"].folder, VIDEO))
    pipe = tiny_flux_pipeline()
    check_task("emoji", pipe)
    with pytest.raises(
        ValueError, match=r"^clip: expected a model that makes a video, got one that makes a picture; run this again$"
    ):
        check_task("clip", pipe)


def test_metrics_and_frames_of_videos_are_refused_for_images(video_model):
    assert build({"model": video_model}).metrics == list(VIDEO.metrics)
    assert build({"model": video_model, "frames": 9}).frames == 9
    with pytest.raises(ValueError, match=r"^metrics: expected a metric for picture, got 'flicker'; possible: psnr, "):
        build({"metrics": ["psnr", "flicker"]})
    with pytest.raises(ValueError, match=r"^frames: expected none, since emoji makes a picture, got 9$"):
        build({"frames": 9})
    with pytest.raises(ValueError, match=r"^frames: expected at least 1, got 0$"):
        build({"model": video_model, "frames": 0})


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


def test_the_frames_that_a_study_asks_for_win_over_the_records(video_model):
    pipe, task = load_pipeline(video_model, "cpu"), task_of(video_model)
    settings = {"steps": 1, "guidance": 1.0, "size": (None, None), "on_step_end": lambda pipe, i, t, tensors: tensors}
    assert len(task.generate(pipe, "a cactus", 0, **settings)) == 5
    assert len(task.generate(pipe, "a cactus", 0, **settings, frames=9)) == 9


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


def test_a_cache_is_on_in_all_cells_but_the_base_and_begins_anew_with_every_image(flux, tmp_path, capsys):
    raw = {"model": str(flux), "prompts": ["a cat", "a dog"], "steps": 4, "costs": False, "wandb": {"mode": "disabled"}}
    raw |= {
        "strategy": {"name": "retom"},
        "merging": {"refresh": 1, "roles": ["feed_forward"]},
        "metrics": ["psnr"],
        "repeat": False,
    }
    raw |= {"sweep": {"cache": {"values": [0, 1e3]}, "strategy.ratio": {"values": [0, 0.5]}}, "control": {"strategy.ratio": 0}}
    study = build(raw | {"out": str(tmp_path / "run")})
    assert run(study, ["run", "x"]) == 0
    assert capsys.readouterr().err == ""
    cells = Run.read(tmp_path / "run").cells
    assert list(cells) == ["base", "cache=0, ratio=0", "cache=0, ratio=0.5", "cache=1000.0, ratio=0", "cache=1000.0, ratio=0.5"]
    assert all(row.metrics["psnr"] == math.inf for row in cells["cache=0, ratio=0"])
    others = [row.metrics["psnr"] for name, rows in cells.items() if name not in ("base", "cache=0, ratio=0") for row in rows]
    assert all(math.isfinite(value) for value in others) and len(set(others)) == len(others)
    computed = {name: {row.computed for row in rows} for name, rows in cells.items()}
    assert computed["base"] == {None} and computed["cache=0, ratio=0"] == computed["cache=0, ratio=0.5"] == {1.0}
    (share,) = computed["cache=1000.0, ratio=0.5"]  # the first step runs whole, the other three only the first block
    blocks = len(find_sites(load_pipeline(str(flux), "cpu").transformer))
    assert share == round((blocks + 3) / (4 * blocks), 4)
    alone = build(raw | {"prompts": ["a dog"], "out": str(tmp_path / "alone")})
    assert run(alone, ["run", "x"]) == 0
    of_dog = [row.metrics for name, rows in cells.items() for row in rows if row.prompt == "a dog"]
    assert of_dog == [row.metrics for rows in Run.read(tmp_path / "alone").cells.values() for row in rows]


def test_what_can_have_no_cache_is_refused_before_an_image_is_made(flux, model, tmp_path):
    raw = {"prompts": ["a cat"], "cache": 0.1, "wandb": {"mode": "disabled"}, "out": str(tmp_path / "out")}
    with pytest.raises(ValueError, match="expected a transformer of diffusers that can have one, got UNet2DCond"):
        run(build(raw | {"model": model}), ["run", "x"])
    with pytest.raises(ValueError, match="keeps merged tokens"):
        run(build(raw | {"model": str(flux), "merging": {"roles": ["block"]}}), ["run", "x"])
    with pytest.raises(ValueError, match="cache: expected a threshold of at least 0, got -1"):
        build({"cache": -1})


def test_guidance_of_a_study_reaches_a_flux_pipeline(flux):
    pipe, task = load_pipeline(str(flux), "cpu"), task_of(str(flux))

    def image(guidance):
        call = {"steps": 2, "guidance": guidance, "size": (None, None), "on_step_end": lambda pipe, i, t, tensors: tensors}
        return task.as_tensor(task.generate(pipe, "a noto apple on blue", 0, **call))

    assert image(1.0).shape == (3, 32, 32)
    assert torch.equal(image(4.0), image(4.0)) and not torch.equal(image(4.0), image(1.0))
