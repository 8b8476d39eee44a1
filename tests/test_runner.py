"""Runs: complete or said so, resumed and never done twice, one writer."""

import fcntl
import json
import math

import pytest
import torch
import yaml
from synthetic_run import a_row

from mergekit_diff.experiments.cli import main
from mergekit_diff.experiments.files import write_atomically
from mergekit_diff.experiments.metrics import fidelity
from mergekit_diff.experiments.metrics.feature import single
from mergekit_diff.experiments.metrics.projection import project
from mergekit_diff.experiments.results.folder import RunFolder
from mergekit_diff.experiments.results.run import Run
from mergekit_diff.experiments.run.generation import Generation
from mergekit_diff.experiments.study import jobs
from mergekit_diff.experiments.tasks import PICTURE

STUDY = {
    "prompts": ["a <noto> apple", "a flat ../../cat"],
    "steps": 2,
    "sweep": {"strategy": {"values": [{"name": "retom-paper", "ratio": 0.5}, {"name": "tomesd", "ratio": 0.5}]}},
    "metrics": ["psnr", "ssim"],
    "wandb": {"mode": "disabled"},
}
JOBS = 6


@pytest.fixture(autouse=True)
def one_thread():
    """A tiny model is fastest so."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def words(command):
    return command(**STUDY)


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "out")


def lines(folder):
    return folder.results.read_text().splitlines()


def test_a_run_is_whole_and_the_same_command_does_nothing_twice(words, folder, monkeypatch, capsys):
    assert main(words) == 0
    rows = [json.loads(line) for line in lines(folder)]
    assert len(rows) == JOBS
    assert [row["cell"] for row in rows[:3]] == ["base", "retom-paper", "tomesd"]
    assert all({"job", "cell", "prompt", "seed", "strategy", "image", "seconds"} <= set(row) for row in rows)
    merged = [row for row in rows if row["cell"] != "base"]
    assert all(row["tokens_after"] < row["tokens_before"] and row["psnr"] != "inf" for row in merged)
    assert {file.stem for file in (folder.path / "images").iterdir()} == {row["job"] for row in rows}
    assert (folder.path / "summary.csv").exists()
    assert "retom-paper" in capsys.readouterr().out
    monkeypatch.setattr(Generation, "make", lambda *_: pytest.fail("done twice"))
    assert main(words) == 0
    assert len(lines(folder)) == JOBS


def test_a_run_resumes_after_a_crash_in_the_middle_of_a_row(words, folder):
    assert main(words) == 0
    whole = lines(folder)
    folder.results.write_text("\n".join(whole[:3]) + "\n" + whole[3][:20])
    (folder.path / json.loads(whole[0])["image"]).unlink()
    assert main(words) == 0
    assert set(folder.rows()) == {json.loads(line)["job"] for line in whole}
    assert len(lines(folder)) == JOBS


def test_a_resumed_run_makes_the_pictures_of_a_whole_one_though_strategies_read_earlier_steps(command, folder):
    values = [{"name": name, "ratio": 0.5} for name in ("imtome", "dato", "sdtm", "ca-tome")]
    words = command(**STUDY | {"steps": 4, "sweep": {"strategy": {"values": values}}})
    assert main(words) == 0
    whole = lines(folder)
    pictures = {row["image"]: (folder.path / row["image"]).read_bytes() for row in map(json.loads, whole)}
    assert len(set(pictures.values())) == len(pictures) == 10
    folder.results.write_text("".join(f"{line}\n" for line in whole[:3] + whole[-1:]))
    for row in map(json.loads, whole[3:-1]):
        (folder.path / row["image"]).unlink()
    assert main(words) == 0
    assert {image: (folder.path / image).read_bytes() for image in pictures} == pictures


def test_another_study_in_the_folder_is_refused_and_fresh_starts_over(words, folder, capsys):
    assert main(words) == 0
    before = lines(folder)
    assert main([*words, "guidance=5.0"]) == 2
    assert "guidance is 2.0 there and 5.0 here" in capsys.readouterr().err
    assert lines(folder) == before
    assert main([*words, "guidance=5.0", "--fresh"]) == 0
    assert len(lines(folder)) == JOBS
    assert {json.loads(line)["job"] for line in before}.isdisjoint(folder.rows())


@pytest.mark.parametrize("fresh", [[], ["--fresh"]])
def test_files_that_no_run_made_are_neither_deleted_nor_overwritten(fresh, words, folder, capsys):
    holiday = folder.path / "images" / "holiday.png"
    holiday.parent.mkdir(parents=True)
    holiday.write_bytes(b"mine")
    (folder.path / "report.html").write_text("mine")
    assert main([*words, *fresh]) == 2
    error = capsys.readouterr().err
    assert "report.html, images" in error and error.count("\n") == 1
    assert holiday.read_bytes() == b"mine" and (folder.path / "report.html").read_text() == "mine"
    assert sorted(path.name for path in folder.path.iterdir()) == ["images", "report.html"]


def test_rows_of_other_weights_or_older_code_leave_no_trace(words, folder, monkeypatch):
    assert main(words) == 0
    old = {row["job"]: row for row in map(json.loads, lines(folder))}
    folder.results.rename(folder.results.with_name("rank1.jsonl"))
    monkeypatch.setattr(jobs, "library", lambda: "edited")
    assert main(words) == 0
    assert [file.name for file in folder.results.parent.iterdir()] == ["rank0.jsonl"]
    now = [json.loads(line)["job"] for line in lines(folder)]
    assert len(now) == len(set(now)) == JOBS
    assert {job for job in now if job in old} == {job for job, row in old.items() if row["role"] == "base"}


def test_a_full_disk_leaves_whole_rows(folder, monkeypatch):
    folder.append(a_row(job="a"))
    before = folder.results.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            folder.append(a_row(job="b"))
        with pytest.raises(OSError, match="No space"):
            write_atomically(folder.path / "z.png", b"z")
    assert folder.results.read_bytes() == before
    assert [path.name for path in folder.path.iterdir()] == ["results"]
    folder.append(a_row(job="c"))
    assert [json.loads(line)["job"] for line in lines(folder)] == ["a", "c"]


def test_a_failure_of_the_disk_is_one_line_and_exit_code_1(words, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device", "report.html")

    monkeypatch.setattr("mergekit_diff.experiments.results.summary.write_csv", full)
    assert main(words) == 1
    said = "No space left on device: report.html; free some space, and run the same command again"
    assert capsys.readouterr().err.strip() == f"mergekit-diff: error: {said}"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_pictures_that_come_to_nothing_are_said(value, pipe, words, tmp_path, capsys):
    torch.nn.init.constant_(pipe.unet.conv_out.weight, value)
    pipe.save_pretrained(tmp_path / "nan")
    assert main([*words, f"model={tmp_path / 'nan'}"]) == 1
    said = capsys.readouterr().err
    assert "the latents are not finite numbers in float32" in said and "6 of 6 images are missing" in said


def test_a_metric_that_is_not_a_number_is_told_in_the_row_and_is_in_no_mean(words, folder, monkeypatch, capsys):
    ordinary, calls = fidelity.ssim, []

    def ssim(*pair):
        calls.append(pair)
        return math.nan if len(calls) == 1 else ordinary(*pair)

    monkeypatch.setattr(fidelity, "ssim", ssim)
    assert main(words) == 0
    (spoiled,) = [row for row in folder.rows().values() if row.role != "base" and "ssim" not in row.metrics]
    assert "ssim is not a number" in spoiled.notes and "ssim is not a number" in (folder.path / "report.html").read_text()
    (other,) = [row for row in folder.rows().values() if row.cell == spoiled.cell and row != spoiled]
    assert Run.read(folder.path).lines[spoiled.cell].metrics["ssim"] == other.metrics["ssim"] > 0


def test_a_second_writer_is_refused(words, folder, capsys):
    folder.path.mkdir()
    with (folder.path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(words) == 2
    assert "another run" in capsys.readouterr().err
    assert not folder.results.exists()


def test_missing_pictures_are_exit_code_1_and_named(words, folder, monkeypatch, capsys):
    make = Generation.make

    def broken(self, job):
        if job.cell.name == "tomesd":
            raise RuntimeError("out of luck")
        return make(self, job)

    monkeypatch.setattr(Generation, "make", broken)
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "out of luck" in said
    assert "2 of 6 images are missing" in said
    assert len(lines(folder)) == JOBS - 2


def test_a_cell_that_merges_nothing_fails_and_ratio_0_is_the_base(words, capsys):
    one = [*words, "prompts=[a cat]", "control={}"]
    assert main([*one, "sweep={strategy.ratio: {values: [0]}}"]) == 0
    assert "∞" in capsys.readouterr().out
    assert main([*one, "sweep={strategy.window: {values: [1]}}", "--fresh"]) == 1
    assert "merged nothing" in capsys.readouterr().err


def test_an_interrupt_ends_cleanly(words, monkeypatch, capsys):
    def interrupted(self, job):
        raise KeyboardInterrupt

    monkeypatch.setattr(Generation, "make", interrupted)
    assert main(words) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("scheduler", ["ddim", "pndm", "euler", "heun", "dpm++", "lcm"])
def test_generate_writes_base_merged_and_map_under_every_scheduler(scheduler, model, tmp_path, capsys):
    words = [f"model={model}", "steps=3", f"scheduler={scheduler}", f"out={tmp_path / 'one'}", "metrics=[psnr]"]
    assert main(["generate", "a noto apple", *words]) == 0
    (picture,) = (tmp_path / "one").glob("*.png")
    assert str(picture) in capsys.readouterr().out


def test_what_a_gate_decided_is_written_down_and_decides_after_a_resume(words, folder, monkeypatch):
    from mergekit_diff import gate

    def pays(place, x, plan, planning, sized):
        return gate.Estimate(saves=2.0 if place.site.level == 0 else 0.0, costs=1.0)

    monkeypatch.setattr(gate, "estimate", pays)
    assert main([*words, "merging.gate=auto"]) == 0
    gates = yaml.safe_load((folder.path / "config.yaml").read_text())["gates"]
    assert set(gates) == {"retom-paper", "tomesd"}
    assert {each["merges"] for each in gates["retom-paper"].values()} == {True, False}
    before = merged_pictures(folder)
    retom = [row for row in folder.rows().values() if row.cell == "retom-paper"]
    assert all(any("skipped: would save 0" in note for note in row.notes) for row in retom)
    folder.results.unlink()
    monkeypatch.setattr(gate, "estimate", lambda *_: pytest.fail("decided again"))
    assert main([*words, "merging.gate=auto"]) == 0
    assert merged_pictures(folder) == before


def test_a_gate_that_closes_every_site_leaves_the_base_and_no_complaint(words, folder, monkeypatch):
    from mergekit_diff import gate

    monkeypatch.setattr(gate, "estimate", lambda *_: gate.Estimate(saves=0.0, costs=1.0))
    assert main([*words, "merging.gate=auto"]) == 0
    rows = folder.rows().values()
    pictures = {(row.cell, row.prompt): (folder.path / row.image).read_bytes() for row in rows}
    assert all(picture == pictures["base", prompt] for (_, prompt), picture in pictures.items())


def test_a_run_that_lost_a_process_after_its_last_picture_is_not_done(words, monkeypatch):
    from mergekit_diff.experiments.run import distributed

    do_jobs = distributed.do_jobs
    monkeypatch.setattr(distributed, "do_jobs", lambda *args: (do_jobs(*args)[0], True))
    assert main(words) == 1
    monkeypatch.undo()
    assert main(words) == 0


def test_a_device_that_is_not_there_is_said_before_a_weight_is_loaded(words, folder, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([*words, "device=cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert not folder.path.exists()


def merged_pictures(folder):
    rows = [row for row in folder.rows().values() if row.cell != "base"]
    return {row.job: (row.tokens_after, (folder.path / row.image).read_bytes()) for row in rows}


def test_rows_keep_the_features_of_their_image_if_a_metric_reads_them(words, folder):
    assert main([*words, "metrics=[psnr,feature]"]) == 0
    rows = list(folder.rows().values())
    assert len(rows) == JOBS
    for row in rows:
        features = single(PICTURE.read(folder.path / row.image))
        assert row.feature_vectors()[0] == pytest.approx(project(features), rel=2e-3, abs=1e-4)  # half precision


def test_rows_keep_no_features_that_nothing_reads(words, folder):
    assert main(words) == 0
    assert not any(row.features for row in folder.rows().values())
