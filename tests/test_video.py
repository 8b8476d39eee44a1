"""Studies of videos: every frame is kept and measured, a run resumes with them, and their maps show every frame."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pipelines import save

from mergekit_diff import MergePlan
from mergekit_diff.experiments.cli import main
from mergekit_diff.experiments.metrics import metrics
from mergekit_diff.experiments.metrics.feature import features
from mergekit_diff.experiments.metrics.projection import project
from mergekit_diff.experiments.report.merge_map import covering, draw_map, draw_maps
from mergekit_diff.experiments.results.folder import RunFolder
from mergekit_diff.experiments.results.images import open_frames
from mergekit_diff.experiments.results.run import Run
from mergekit_diff.experiments.run.generation import Generation
from mergekit_diff.experiments.run.result import _map
from mergekit_diff.experiments.study.loading import build
from mergekit_diff.experiments.study.sweep import cells
from mergekit_diff.experiments.study.traits import traits
from mergekit_diff.experiments.tasks import VIDEO

FRAMES, JOBS = 5, 12
PROMPTS = ["a noto apple sliding left on blue", "a flat cat spinning", "a 3d house", "a noto dog rising"]
STUDY = {
    "prompts": PROMPTS,
    "steps": 2,
    "strategy": {"name": "tomesd"},
    "sweep": {"strategy.ratio": {"values": [0.25, 0.5]}},
    "control": {"strategy.ratio": 0.25},
    "repeat": False,
    "costs": False,
    "metrics": ["psnr", "ssim", "feature", "detail", "background", "text", "flicker"],
    "primary": {"metric": "feature", "better": "lower"},
    "wandb": {"mode": "disabled"},
}


@pytest.fixture
def words(command, video_model):
    return command(**STUDY, model=video_model)


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "out")


def files(folder):
    return {path.name: path.read_bytes() for path in (folder.path / "images").iterdir()}


def test_a_study_of_videos_keeps_and_measures_every_frame(words, folder, capsys):
    assert main(words) == 0
    run = Run.read(folder.path)
    assert len(run.rows) == JOBS and run.noun == "video"
    known = {name: metric for name, metric in metrics().items() if name in STUDY["metrics"]}
    for row in run.rows:
        video, base = (VIDEO.read(folder.path / run.jobs[job].image) for job in (row.job, row.base))
        assert video.shape == (FRAMES, 3, 32, 48) and row.image.endswith(".apng")
        pairs = {name: metric.value(video, base) for name, metric in known.items() if metric.of == "pair"}
        expected = {"text": known["text"].value(video, row.prompt)} | (pairs if row.role != "base" else {})
        assert row.metrics == pytest.approx(expected)
        kept = row.feature_vectors()
        assert kept == pytest.approx(project(features(video)), rel=2e-3, abs=1e-3)  # half precision
    merged = [row for row in run.rows if row.role != "base"]
    assert {row.granted for row in merged} == {0.25, 0.5} and all(row.metrics["flicker"] > 0 for row in merged)
    assert all(len(row.drift) == len(row.kept) == 2 for row in merged)
    assert "Fidelity to the base video" in capsys.readouterr().out
    assert "s/video" in (folder.path / "tables.md").read_text()
    assert {tuple(one["grid"]) for cell in run.maps.values() for one in cell["maps"]} == {(3, 4, 6)}


def test_a_plan_a_step_is_counted_as_such_where_two_denoisers_take_turns(words, folder):
    sweep = "sweep={strategy.name: {values: [retom, tomesd]}}"
    assert main([*words, sweep, "control={strategy.name: tomesd}", "steps=4", "prompts=[a noto apple]"]) == 0
    assert {(row.cell, row.plans) for row in Run.read(folder.path).rows if row.merging} == {("retom", 4), ("tomesd", 4)}


def test_the_report_prints_the_same_tables_again(words, folder, tmp_path, capsys):
    assert main([*words, "metrics=[psnr,feature,flicker]"]) == 0
    tables = (folder.path / "tables.md").read_text()
    assert main(["report", str(folder.path), "--rows-into", str(tmp_path / "kept")]) == 0
    assert (folder.path / "tables.md").read_text() == tables
    capsys.readouterr()
    assert main(["report", str(tmp_path / "kept" / "out")]) == 0
    assert tables.splitlines()[-1] in capsys.readouterr().out


def test_a_run_resumes_after_a_failure_and_half_a_video_is_made_again(words, folder, monkeypatch):
    words += ["metrics=[psnr,flicker]", "primary=null"]
    made, make = [], Generation.make

    def dies(self, job):
        made.append(job.id)
        if len(made) == 6:
            raise KeyboardInterrupt
        return make(self, job)

    monkeypatch.setattr(Generation, "make", dies)
    assert main(words) == 130
    before = files(folder)
    assert len(before) == 5 and len(folder.rows()) == 5
    monkeypatch.setattr(Generation, "make", lambda self, job: made.append(job.id) or make(self, job))
    assert main(words) == 0
    whole = files(folder)
    assert len(whole) == JOBS and before.items() <= whole.items()
    name = next(row.image for row in folder.rows().values() if row.role == "cell")
    (folder.path / name).write_bytes(whole[name.split("/")[1]][:-100])
    made.clear()
    assert main(words) == 0
    assert {name.split("/")[1].split(".")[0]} <= set(made) and files(folder) == whole
    assert len(folder.results.read_text().splitlines()) == JOBS


def test_sets_of_videos_are_compared_over_all_frames(words, folder, tmp_path):
    draw = np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    assert main([*words, "metrics=[kid,feature]", f"reference={tmp_path}", "primary={metric: kid}"]) == 0
    run = Run.read(folder.path)
    sets = {cell: run.set_value(cell, "kid") for cell in run.cells}
    assert {value["n"] for value in sets.values()} == {len(PROMPTS)}
    (one,) = run.comparisons
    rows = run.cells[one.cell], run.cells[one.against]
    assert one.metric == "kid" and all(row.feature_vectors().shape == (FRAMES, 256) for group in rows for row in group)
    expected = sets[one.cell]["value"] - sets[one.against]["value"]
    assert one.effect == pytest.approx(expected, rel=0.5, abs=2e-3)  # of projected features


def test_the_number_of_frames_can_be_swept(words, folder):
    few = ["prompts=[a cactus]", "costs=true", "sweep={frames: {values: [1, 9]}}", "control={}", "primary=null", "metrics=[psnr]"]
    assert main([*words, *few]) == 0
    lengths = {row.cell: len(open_frames(folder.path / row.image)) for row in folder.rows().values()}
    assert sorted(lengths.values()) == [1, 1, 9, 9] and len(lengths) == 4


def test_generate_shows_base_merged_and_map_frame_by_frame(video_model, tmp_path, capsys):
    words = [f"model={video_model}", "steps=2", f"out={tmp_path}", "metrics=[psnr,flicker]", "strategy.ratio=0.5"]
    assert main(["generate", PROMPTS[0], *words]) == 0
    (path,) = tmp_path.glob("*.apng")
    frames = VIDEO.read(path)
    assert len(frames) == FRAMES and str(path) in capsys.readouterr().out
    third = frames.shape[-1] // 3
    base, of_map = frames[..., :third], frames[..., -third:]
    assert not torch.equal(base[0], base[1]) and not torch.equal(of_map[0], of_map[1])


@pytest.mark.parametrize(("name", "frames"), [("cogvideox", 5), ("ltx", 9)])
def test_other_pipelines_of_videos_are_taken(name, frames, tmp_path):
    save(name, tmp_path / "model")
    words = [f"model={tmp_path / 'model'}", "steps=2", f"out={tmp_path / 'out'}", "metrics=[psnr,flicker]", "strategy.window=2"]
    assert main(["generate", "a noto apple", *words]) == 0
    (path,) = (tmp_path / "out").glob("*.apng")
    assert len(VIDEO.read(path)) == frames


# merge maps


def test_the_map_of_a_site_that_sees_single_frames_has_every_frame(tmp_path, command, folder):
    save("animatediff", tmp_path / "model")
    model = str(tmp_path / "model")
    words = command(model=model, prompts=["a cactus"], steps=1, costs=False, wandb={"mode": "disabled"})
    assert main([*words, "metrics=[psnr,flicker]"]) == 0
    (merged,) = Run.read(folder.path).maps.values()
    assert {tuple(one["grid"]) for one in merged["maps"]} >= {(4, 16, 16)}
    for one in merged["maps"]:
        frames, h, w = one["grid"]
        groups = np.array(one["assign"]).reshape(frames, h * w)
        assert all(not set(groups[a]) & set(groups[b]) for a in range(frames) for b in range(a))
        assert (np.array(one["assign"])[one["rep"]] == np.arange(len(one["rep"]))).all()


def test_rows_of_frames_become_one_map_and_the_unconditional_half_is_left_out():
    target = torch.tensor([[0, 0, 2, 3], [0, 1, 1, 3], [0, 1, 2, 2], [0, 0, 2, 3]])
    plan = MergePlan.from_target(target, 3)
    found = _map(("site", "self_attention"), None, plan, (2, 2), frames=2)
    assert found["grid"] == [2, 2, 2]
    assert found["assign"] == [0, 1, 2, 2, 3, 3, 4, 5] and found["rep"] == [0, 1, 2, 4, 6, 7]
    alone = _map(("site", "self_attention"), None, plan, (2, 2), frames=1)
    assert (alone["grid"], alone["assign"], alone["rep"]) == ([2, 2], [0, 0, 1, 2], [0, 2, 3])
    over_time = _map(("site", "self_attention"), None, plan, (2, 1, 2), frames=2)
    assert over_time["grid"] == [2, 1, 2] and over_time["assign"] == [0, 0, 1, 2]


def test_a_group_over_several_frames_has_its_colour_in_all_of_them():
    grey = [Image.new("RGB", (16, 16), "gray")] * 3
    one = {"grid": [3, 1, 2], "assign": [0, 1, 0, 2, 3, 3], "rep": [0, 1, 3, 4]}
    first, second, last = (np.array(image) for image in draw_maps(grey, one, side=64))
    at = (4, 4)  # of the left token, away from its dot
    assert (first[at] == second[at]).all() and not (first[at] == last[at]).all()
    plain = np.array(grey[0])[0, 0]
    assert (first[4, 60] == plain).all() and (second[4, 60] == plain).all() and not (last[4, 60] == plain).all()
    assert (first[16, 16] == 255).all() and not (second[16, 16] == 255).all()  # the dot is where the representative is
    flat = {"grid": [1, 2], "assign": [0, 0], "rep": [0]}
    alike = draw_maps(grey, flat, side=64)
    assert len(alike) == 3 and all((np.array(image) == np.array(draw_map(grey[0], flat, side=64))).all() for image in alike)


@pytest.mark.parametrize(("frames", "planes"), [(9, 3), (81, 21), (16, 16), (5, 1), (1, 1), (1, 3)])
def test_every_plane_covers_frames_in_order(frames, planes):
    covered = [covering(k, frames, planes) for k in range(frames)]
    assert covered == sorted(covered) and covered[0] == 0
    if frames > 1:
        assert set(covered) == set(range(planes)) and covered.count(0) == (1 if planes > 1 else frames)


def test_a_file_of_another_length_than_its_base_fails_with_a_line(words, folder, monkeypatch, capsys):
    generate = type(VIDEO).generate

    def short(self, pipe, *args, **settings):
        output = generate(self, pipe, *args, **settings)
        return output[:-1] if pipe.transformer._forward_hooks else output  # where a session is attached

    monkeypatch.setattr(type(VIDEO), "generate", short)
    assert main([*words, "metrics=[ssim]", "primary=null", "prompts=[a cactus]"]) == 1
    assert "expected as many frames as the base has, 5; got 4" in capsys.readouterr().err
    assert [row.role for row in folder.rows().values()] == ["base"]


def test_windows_of_a_video_study_may_reach_over_frames(video_model, model):
    raw = {"prompts": ["a cat"], "model": video_model, "merging": {"roles": ["key_value"]}}
    windows = [{"name": "local-match", "ratio": 0.5, "stride": stride} for stride in ([1, 2, 2], [2, 2, 1])]
    strategies = [*windows, {"name": "vidtome"}, {"name": "downsample", "ratio": 0.75}]
    planned = cells(build(raw | {"sweep": {"strategy": {"values": strategies}}}))
    assert [traits(cell).redrawn for cell in planned] == ["at every step", "at every step", "at every step", "never"]
    with pytest.raises(ValueError, match="expected a window of 2 axes for the grid"):
        cells(build(raw | {"model": model, "strategy": windows[0]}))
