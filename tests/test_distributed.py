"""Runs that are killed or shared out: one row a job, the pictures of an undisturbed run, and what is missing is named."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml

from mergekit_diff.experiments.cli import main
from mergekit_diff.experiments.models import devices
from mergekit_diff.experiments.results.folder import RunFolder
from mergekit_diff.experiments.run import distributed  # noqa: F401  before a fork, so that no child has to

JOBS = 2 * 2 * 3


@pytest.fixture(scope="module")
def study(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    content = {
        "model": model,
        "prompts": ["a noto apple", "a flat cat"],
        "seeds": 2,
        "steps": 3,
        "sweep": {"strategy": {"values": [{"name": "retom-paper"}, {"name": "random-dest"}]}},
        "metrics": ["psnr", "ssim"],
        "threads": 1,
        "costs": False,
        "wandb": {"mode": "disabled"},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    return folder / "study.yaml"


@pytest.fixture(scope="module")
def undisturbed(study):
    out = study.parent / "whole"
    start = time.monotonic()
    child = start_child(study, out)
    child.join()
    assert child.exitcode == 0
    return RunFolder(out), time.monotonic() - start


def start_child(study, out):
    """A run in a process of its own that has everything imported already."""
    child = multiprocessing.get_context("fork").Process(target=lambda: os._exit(main(["run", str(study), f"out={out}"])))
    child.start()
    return child


def rows(folder):
    return [json.loads(line) for file in (folder.path / "results").glob("*.jsonl") for line in file.read_text().splitlines()]


def facts(row):
    """What a row says about its picture; times differ from run to run."""
    return {key: value for key, value in row.items() if "seconds" not in key}


def assert_same(folder, whole):
    found, expected = ({row["job"]: facts(row) for row in rows(f)} for f in (folder, whole))
    assert found == expected
    for row in rows(whole):
        assert (folder.path / row["image"]).read_bytes() == (whole.path / row["image"]).read_bytes()


NIGHTLY = pytest.mark.nightly
KILL, TERM = signal.SIGKILL, signal.SIGTERM


@pytest.mark.parametrize(
    ("how", "kills"),
    [(KILL, 5), (TERM, 3), pytest.param(KILL, 100, marks=NIGHTLY), pytest.param(TERM, 100, marks=NIGHTLY)],
)
def test_a_run_killed_at_random_moments_has_one_row_a_job_and_the_same_pictures(how, kills, study, undisturbed):
    whole, seconds = undisturbed
    folder, draw = RunFolder(study.parent / f"{how.name}{kills}"), random.Random(kills)
    for _ in range(kills):
        child = start_child(study, folder.path)
        time.sleep(draw.uniform(0.1, 0.7) * seconds)
        os.kill(child.pid, how)
        child.join()
        assert child.exitcode in {KILL: {0, -KILL}, TERM: {0, 1, -TERM}}[how]
        assert len({row["job"] for row in rows(folder)}) == len(rows(folder))
    child = start_child(study, folder.path)
    child.join()
    assert child.exitcode == 0
    assert len(rows(folder)) == JOBS
    assert_same(folder, whole)


def torchrun(study, out, *settings, **environment):
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words += ["-m", "mergekit_diff.experiments.cli", "run", str(study), f"out={out}", *settings]
    return subprocess.Popen([sys.executable, *words], text=True, stderr=subprocess.PIPE, env=os.environ | environment)


def test_two_processes_give_the_rows_of_one(study, undisturbed):
    folder = RunFolder(study.parent / "two")
    process = torchrun(study, folder.path, "costs=true")  # measured by one process while the other waits
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert sorted(file.name for file in (folder.path / "results").iterdir()) == ["rank0.jsonl", "rank1.jsonl"]
    assert len(rows(folder)) == JOBS and (folder.path / "costs.json").exists()
    assert_same(folder, undisturbed[0])


def test_a_finished_run_ends_at_once_on_two_processes_too(study, undisturbed):
    folder, _ = undisturbed
    before = rows(folder)
    process = torchrun(study, folder.path)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert rows(folder) == before


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.nightly), 1])
def test_a_run_goes_on_where_only_one_process_has_something_left(rank, study, undisturbed):
    whole, _ = undisturbed
    folder = RunFolder(study.parent / f"left{rank}")
    shutil.copytree(whole.path, folder.path)
    prompt = ("a noto apple", "a flat cat")[rank]
    kept = [row for row in rows(whole) if (row["prompt"], row["seed"]) != (prompt, rank)]
    (folder.path / "results" / "rank0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    (folder.path / "config.yaml").write_text((whole.path / "config.yaml").read_text().replace(str(whole.path), str(folder.path)))
    process = torchrun(study, folder.path)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert_same(folder, whole)


@pytest.mark.parametrize("end", [lambda pid: os.killpg(pid, signal.SIGTERM), lambda pid: os.kill(pid, signal.SIGKILL)])
def test_no_process_goes_on_when_all_are_told_to_end_or_the_first_one_dies(end, study, tmp_path):
    folder = RunFolder(tmp_path / "out")
    words = ["-m", "mergekit_diff.experiments.cli", "run", str(study), f"out={folder.path}", "devices=2", "steps=60"]
    process = subprocess.Popen([sys.executable, *words], start_new_session=True, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (folder.path / "results" / "rank1.jsonl").exists():
        time.sleep(0.01)
    end(process.pid)
    assert process.wait(60) in (1, -signal.SIGKILL)
    deadline = time.monotonic() + 60
    while alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(process.pid)
    assert len((folder.path / "results" / "rank1.jsonl").read_text().splitlines()) < JOBS / 2  # its share


def alive(group):
    """Whether a process of a group still runs; one that nobody has waited for does not."""
    listed = subprocess.run(["ps", "-e", "-o", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    return any(int(line.split()[0]) == group and "Z" not in line.split()[1] for line in listed.splitlines())


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.nightly), 1])
def test_a_process_that_dies_is_exit_code_1_and_what_is_missing_is_named(rank, study, tmp_path):
    killer = tmp_path / "sitecustomize.py"
    killer.write_text(KILLER)
    process = torchrun(study, tmp_path / "out", PYTHONPATH=str(tmp_path), DYING_RANK=str(rank))
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1
    done = {row["job"] for row in rows(RunFolder(tmp_path / "out"))}
    assert 0 < len(done) < JOBS
    assert f"of {JOBS} images are missing" in said
    named = said.split("images are missing:")[1].split(";")[0].split()
    assert set(named).isdisjoint(done) or rank  # the other process may write on while the first one looks
    assert len(named) >= JOBS - len(done)


def started(pid):
    """The process that a run with devices=2 has started; None before."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    lines = [line.split(None, 2) for line in listed.splitlines()]
    return next((int(own) for own, parent, words in lines if int(parent) == pid and "experiments.cli" in words), None)


@pytest.mark.nightly
@pytest.mark.parametrize("written", [0, 1, JOBS // 2])
def test_a_run_whose_second_process_dies_says_so_and_what_is_missing(written, study, tmp_path):
    words = ["-m", "mergekit_diff.experiments.cli", "run", str(study), f"out={tmp_path / 'out'}", "devices=2", "steps=10"]
    process = subprocess.Popen([sys.executable, *words], text=True, stderr=subprocess.PIPE)
    own = tmp_path / "out" / "results" / "rank1.jsonl"
    while (child := started(process.pid)) is None or written > (own.read_bytes().count(b"\n") if own.exists() else 0):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1
    assert said.startswith("mergekit-diff: error: process 1 of 2 ended by signal 9; the same command again resumes\n")
    done = {row["job"] for row in rows(RunFolder(tmp_path / "out"))} if written else set()
    assert len(done) == JOBS or f"{JOBS - len(done)} of {JOBS} images are missing" in said


KILLER = """
import os, signal, threading, time
from pathlib import Path
if os.environ.get("RANK") == os.environ["DYING_RANK"]:
    def die():
        own = Path(__file__).parent / "out" / "results" / f"rank{os.environ['RANK']}.jsonl"
        while not own.exists():
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=die, daemon=True).start()
"""


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 2), (64, 4)])
def test_auto_is_a_process_for_every_core_but_few_in_all(monkeypatch, cores, expected):
    monkeypatch.setattr(devices, "_cores", lambda: cores)
    assert devices.processes("cpu", "auto") == expected and devices.processes("cpu", 7) == 7
    assert devices.processes("mps", "auto") == 1


def test_processes_that_cannot_reach_each_other_are_not_started(monkeypatch):
    monkeypatch.setattr(devices, "_cores", lambda: 8)
    monkeypatch.setattr(devices, "_has_loopback", lambda: False)
    assert devices.processes("cpu", "auto") == 1
    devices.check_device("cpu", 1)
    with pytest.raises(ValueError, match="loopback interface is down, got 2"):
        devices.check_device("cpu", 2)


@pytest.mark.parametrize(("count", "threads", "inside"), [(1, None, 3), (2, None, 4), (2, 3, 3), (16, None, 1)])
def test_processes_share_the_cores_and_the_last_one_gets_them_back(monkeypatch, count, threads, inside):
    monkeypatch.setattr(devices, "_cores", lambda: 8)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with devices.shared_cores("cpu", count, threads):
            assert torch.get_num_threads() == inside
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
