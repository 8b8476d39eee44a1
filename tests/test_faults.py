"""Faults in the middle of a run: each is one line with the file and what to do, and the same command then makes the run whole."""

import contextlib
import dataclasses
import errno
import json
import math
import multiprocessing
import os
import signal
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from synthetic_run import CELLS, a_row, synthetic_run

from mergekit_diff import MergePlan, MergeStrategy, RatioSchedule
from mergekit_diff.experiments.cli import main
from mergekit_diff.experiments.files import write_atomically
from mergekit_diff.experiments.results.folder import RunFolder
from mergekit_diff.experiments.results.run import Run
from mergekit_diff.experiments.run.generation import Generation

STUDY = {
    "prompts": ["a noto apple", "a flat cat"],
    "steps": 2,
    "sweep": {"strategy": {"values": [{"name": "retom-paper", "ratio": 0.5}]}},
    "metrics": ["psnr"],
    "threads": 1,
    "devices": 1,
    "wandb": {"mode": "disabled"},
}
JOBS = 4
REMEDY = {errno.ENOSPC: "free some space", errno.EROFS: "make that disk writable", errno.EPERM: "allow access to it"}


@pytest.fixture
def words(command):
    return [*command(**STUDY), "costs=false"]


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "out")


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """The rows by job and the images of a run that nothing disturbed."""
    path = tmp_path_factory.mktemp("whole")
    (path / "study.yaml").write_text(json.dumps(STUDY | {"model": model, "out": str(path / "out")}))
    assert main(["run", str(path / "study.yaml"), "costs=false"]) == 0
    return kept(RunFolder(path / "out"))


def kept(folder):
    """What a run left that does not depend on how long it took; fails if a row is there twice."""
    rows = [json.loads(line) for file in (folder.path / "results").iterdir() for line in file.read_bytes().splitlines()]
    assert len({row["job"] for row in rows}) == len(rows)
    facts = {row["job"]: {key: value for key, value in row.items() if "seconds" not in key} for row in rows}
    return facts, {row["image"]: (folder.path / row["image"]).read_bytes() for row in rows}


def failing(monkeypatch, code, part, spared=0):
    """Let the last call of every write fail for files whose path has a part, but for the first few."""
    sync, met = os.fsync, []

    def fsync(file):
        path = str(Path(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}").readlink())
        if part in path:
            met.append(path)
            if len(met) > spared:
                raise OSError(code, os.strerror(code))
        sync(file)

    monkeypatch.setattr(os, "fsync", fsync)
    return met


NIGHTLY = pytest.mark.nightly
WRITES = [("results/", 1), ("images/", 1), ("config.yaml", 0), ("report.html", 0)]
OTHERS = [("maps/", 0), ("summary.csv", 0), ("costs.json", 0), ("sheet.png", 0), ("tables.md", 0)]


@pytest.mark.parametrize(
    ("code", "part", "spared"),
    [
        *((errno.ENOSPC, *one) for one in WRITES),
        *(pytest.param(errno.ENOSPC, *one, marks=NIGHTLY) for one in OTHERS),
        (errno.EROFS, "images/", 2),
        pytest.param(errno.EPERM, "results/", 2, marks=NIGHTLY),
    ],
)
def test_a_disk_that_takes_no_more_is_said_once_and_the_same_command_goes_on(
    code, part, spared, words, folder, whole, monkeypatch, capsys
):
    words = [*words, "costs=true"] if part == "costs.json" else words
    with monkeypatch.context() as patch:
        met = failing(patch, code, part, spared)
        assert main(words) == 1
    assert len(met) == spared + 1  # nothing else was tried
    first, *rest = capsys.readouterr().err.splitlines()
    assert os.strerror(code) in first and f"{folder.path}/" in first and part.split(".")[0] in first
    assert first.endswith(f"; {REMEDY[code]}, and run the same command again")
    assert not rest or ("images are missing" in rest[0] and len(rest) == 1)
    assert not list(folder.path.rglob("*.part"))
    assert main(words) == 0
    assert kept(folder) == whole and (folder.path / "report.html").exists()


def test_a_file_keeps_what_it_held_where_a_full_disk_takes_no_new_one(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    write_atomically(path, b"old")
    failing(monkeypatch, errno.ENOSPC, path.name)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_file_keeps_what_it_held_where_a_kill_ends_the_writing_of_a_new_one(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    write_atomically(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: os.kill(os.getpid(), signal.SIGKILL))
        child = multiprocessing.get_context("fork").Process(target=write_atomically, args=(path, b"new"))
        child.start()
        child.join()
    assert child.exitcode == -signal.SIGKILL and path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


@pytest.fixture
def disk():
    """Mounts file systems and unmounts them; skips where this user may not."""
    with contextlib.ExitStack() as stack:

        def mount(path, *options):
            if subprocess.run(["mount", *options, path], capture_output=True, check=False).returncode:
                pytest.skip("mounts nothing here")
            stack.callback(subprocess.run, ["umount", "--lazy", path], check=True)

        yield mount


def test_a_real_disk_that_is_full_leaves_whole_rows_and_images(words, folder, disk, whole, capsys):
    folder.path.mkdir()
    disk(folder.path, "-t", "tmpfs", "-o", "size=16k", "tmpfs")
    assert main(words) == 1
    said = capsys.readouterr().err.splitlines()
    assert "No space left on device: " in said[0] and "free some space" in said[0] and len(said) == 2
    subprocess.run(["mount", "-o", "remount,size=16m", folder.path], check=True)
    assert main(words) == 0
    assert kept(folder) == whole


def test_a_real_folder_that_becomes_read_only_is_said_once(words, folder, disk, whole, monkeypatch, capsys):
    make, calls = Generation.make, []

    def making(self, job):
        calls.append(job)
        if len(calls) == 3:
            disk(folder.path / "images", "--bind", folder.path / "images")
            subprocess.run(["mount", "-o", "remount,ro,bind", folder.path / "images"], check=True)
        return make(self, job)

    with monkeypatch.context() as patch:
        patch.setattr(Generation, "make", making)
        assert main(words) == 1
    said = capsys.readouterr().err.splitlines()
    assert "Read-only file system: " in said[0] and "make that disk writable" in said[0]
    assert "2 of 4 images are missing" in said[1] and len(said) == 2 and len(calls) == 3
    subprocess.run(["umount", folder.path / "images"], check=True)
    subprocess.run(["mount", "--bind", folder.path / "images", folder.path / "images"], check=True)  # for the fixture to undo
    assert main(words) == 0
    assert kept(folder) == whole


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_on_a_full_disk_changes_no_exit_code(words, folder, whole, monkeypatch):
    with Path("/dev/full").open("w", buffering=1) as full:
        monkeypatch.setattr("sys.stderr", full)
        assert main([*words, "stepz=3"]) == 2
        assert main(words) == 0
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()
    assert kept(folder) == whole and (folder.path / "report.html").exists()


def test_rows_that_are_there_twice_or_of_another_run_are_cleared_away_and_count_once(words, folder, whole):
    assert main(words) == 0
    before, lines = Run.read(folder.path), folder.results.read_bytes()
    first = before.rows[0]
    foreign = replace(first, job="f" * 16, prompt="a dog", cell="other")
    (folder.path / "results" / "rank3.jsonl").write_bytes(lines + foreign.line())
    folder.results.write_bytes(lines + lines.splitlines(keepends=True)[1])
    found = Run.read(folder.path)
    assert {cell: line for cell, line in found.lines.items() if cell != "other"} == before.lines
    assert main(words) == 0
    assert kept(folder) == whole and [file.name for file in folder.results.parent.iterdir()] == ["rank0.jsonl"]


def test_a_line_of_another_program_is_named_and_nothing_is_lost(words, folder, whole, capsys):
    assert main(words) == 0
    lines = folder.results.read_bytes()
    folder.results.write_bytes(b'{"step": 1}\n' + lines)
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"{folder.results}: line 1" in said and "delete that line" in said and said.count("\n") == 1
    folder.results.write_bytes(lines)
    assert kept(folder) == whole


def test_a_clock_that_jumps_back_and_forth_changes_no_image_and_no_row(words, folder, whole, monkeypatch):
    now, calls = time.time(), []

    def jumping():
        calls.append(None)
        return now + 1e6 * (-1) ** len(calls) * len(calls)

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * jumping()))
    assert main(words) == 0
    lines = folder.results.read_bytes().splitlines(keepends=True)
    folder.results.write_bytes(b"".join(lines[:2]))
    for path in folder.path.rglob("*"):
        os.utime(path, (4e9, 4e9))  # files from the future
    assert main(words) == 0
    assert kept(folder) == whole
    assert all(row.seconds > 0 for row in folder.rows().values())


@pytest.fixture
def broken(registry):
    """A strategy whose merged tokens are NaN."""

    @registry.register("broken")
    @dataclass(frozen=True)
    class Broken(MergeStrategy):
        """NaN."""

        ratio: RatioSchedule = 0.5

        def plan(self, x, ctx):
            n = x.shape[1]
            target = torch.arange(n, device=x.device)
            plan = MergePlan.from_target((target - target % 2)[None], (n + 1) // 2)
            return dataclasses.replace(plan, weight=torch.full(plan.assign.shape, math.nan))


def test_a_cell_of_nan_fails_alone_and_is_in_no_mean(broken, words, folder, whole, capsys):
    values = "[{name: broken}, {name: retom-paper, ratio: 0.5}]"
    assert main([*words, f"sweep={{strategy: {{values: {values}}}}}"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "mergekit-diff: broken: RuntimeError: the latents are not finite numbers in float32"
    assert "2 of 6 images are missing" in said[1] and len(said) == 2
    assert kept(folder) == whole
    assert set(Run.read(folder.path).lines) == {"base", "retom-paper"}


def test_a_decoder_that_returns_nan_gives_no_black_image(words, pipe, folder, tmp_path, capsys):
    torch.nn.init.constant_(pipe.vae.decoder.conv_out.weight, math.nan)
    pipe.save_pretrained(tmp_path / "nan")
    assert main([*words, f"model={tmp_path / 'nan'}"]) == 1
    said = capsys.readouterr().err
    assert "base: RuntimeError: the decoded image has pixels that are not numbers" in said and "4 of 4 images" in said
    assert not folder.results.exists()


@pytest.mark.nightly
def test_a_sink_on_a_full_disk_loses_nothing(tmp_path, disk, monkeypatch, capfd):
    from test_tracking import build, track

    from mergekit_diff.experiments.study.config import Wandb

    monkeypatch.setenv("HOME", str(tmp_path))
    folder = synthetic_run(tmp_path / "out", CELLS[:1], 2, parts=("maps",))
    study = build({"prompts": ["p"]}).record() | Run.read(folder.path).study
    folder.write_config(study, ["run", "x"])
    before = kept(folder)
    (folder.path / "wandb").mkdir()
    disk(folder.path / "wandb", "-t", "tmpfs", "-o", "size=16k", "tmpfs")
    track(Run.read(folder.path), Wandb())
    said = capfd.readouterr().err
    assert "W&B, offline: OSError" in said and "No space left on device" in said and said.count("\n") == 1
    assert kept(folder) == before


def test_a_row_is_whole_or_absent_where_the_system_writes_half_of_it(folder):
    import resource

    folder.append(a_row(job="a"))
    size, limits = folder.results.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))
    try:
        with pytest.raises(OSError, match="No space left"):
            folder.append(a_row(job="b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert folder.results.stat().st_size == size
