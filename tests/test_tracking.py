"""W&B is told what the run folder holds, once, silently, and inside the folder; it can break and nothing is lost."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import wandb
import yaml
from PIL import Image
from synthetic_run import CELLS, a_row, synthetic_run
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from mergekit_diff.experiments.results.folder import RunFolder
from mergekit_diff.experiments.results.run import Run
from mergekit_diff.experiments.study.config import Wandb
from mergekit_diff.experiments.study.loading import STUDIES, build, load_study
from mergekit_diff.experiments.study.sweep import cells
from mergekit_diff.experiments.tracking import sink, track
from mergekit_diff.experiments.tracking.sweep_config import sweep_config

PROMPTS = ["a <noto> apple", "a flat cat"]
STEPS = 3
PLACE = {"site": "down_blocks.0.attentions.0", "role": "self_attention", "stage": "down", "grid": [2, 2]}
COUNTS = {"level": 0, "tokens": 64, "kept": 31.0, "asked": 0.5, "granted": 0.5, "plans": 1, "note": ""}
SITE = PLACE | COUNTS | {"by_step": {str(step): [64, 32 - step] for step in range(STEPS)}}
MAP = PLACE | {"assign": [0, 0, 1, 2], "rep": [0, 2, 3]}


def row(cell, number, prompt):
    job = {"job": f"{cell}{number}", "base": f"base{number}", "cell": cell, "prompt": prompt, "step_seconds": [0.5] * STEPS}
    if cell == "base":
        return a_row(**job, role="base", strategy="base")
    job |= {"values": {"strategy.ratio": float(cell[1:])}, "strategy": f"ReToM({cell})", "merging": {"refresh": 5}}
    job |= {"tokens_before": 64, "tokens_after": 32.5, "asked": 0.5, "granted": 0.5}
    steps = {"drift": [0.0, 0.1, 0.2 + number], "kept": [0.5, 0.5, 0.25], "stale": [None, 0.5, None]}
    return a_row(**job, **steps, metrics={"psnr": 20.0 + 2 * number, "ssim": math.inf})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    folder = RunFolder(tmp_path / "out")
    raw = {"prompts": PROMPTS, "sweep": {"strategy.ratio": {"values": [0.25, 0.5]}}, "metrics": ["psnr", "ssim"]}
    folder.write_config(build(raw | {"out": str(folder.path)}).record(), ["run", "mine"])
    (folder.path / "images").mkdir()
    (folder.path / "maps").mkdir()
    for number, prompt in enumerate(PROMPTS):
        for cell in ("base", "r0.25", "r0.5"):
            one = row(cell, number, prompt)
            Image.new("RGB", (8, 8), "red").save(folder.path / one.image)
            folder.append(one)
            if cell != "base" and number == 0:
                merge_map = one.to_json() | {"sites": [SITE], "maps": [MAP]}
                (folder.path / "maps" / f"{one.job}.json").write_text(json.dumps(merge_map))
    return folder


def tracked(folder, **changes):
    run = Run.read(folder.path)
    track(run, Wandb(**(run.study["wandb"] | changes)))


def inspect(path, *options):
    command = [Path(sys.executable).parent / "wandb", "leet", "inspect", "--json", *options, path]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def runs(folder):
    """The folders of W&B's runs, in the order in which they were made."""
    return sorted((folder.path / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_ctime_ns)


def files(path):
    return {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()}


def test_a_run_a_cell_has_its_settings_means_and_history(folder, capfd):
    kid = {"value": 0.01, "low": 0.0, "high": 0.02, "floor": 0.0, "n": 2, "reference_n": 2, "made_by": "a network"}
    (folder.path / "sets.json").write_text(json.dumps({"r0.25": {"kid": kid}}))
    (folder.path / "costs.json").write_text(json.dumps({"r0.25": {"flops": 7}}))
    tracked(folder)
    assert capfd.readouterr() == ("", "")
    base, path, _ = runs(folder)
    read, records = json.loads(inspect(path, "--summary")), [json.loads(line) for line in inspect(path).splitlines()]
    assert (read["name"], read["project"], read["state"]) == ("r0.25", "mergekit-diff", "finished")
    check_config(read["config"])
    check_summary(read["summary"])
    header = next(one["run"] for one in records if one["type"] == "run")
    assert (header["run_group"], header["job_type"]) == ("out", "cell")
    check_history([one["history"]["item"] for one in records if one["type"] == "history"])
    read = json.loads(inspect(base, "--summary"))
    assert read["config"]["strategy"] is None and "merge_map" not in read["summary"]


def check_config(config):
    strategy = config["strategy"]
    assert strategy["name"] == "retom" and strategy["metric"] == {"name": "cosine"}
    assert strategy["ratio"] == {"name": "constant", "value": 0.25}
    assert config["repr"] == "ReToM(r0.25)" and config["merging"] == {"refresh": 5} and config["steps"] == 20
    assert config["versions"]["torch"] and "git" in config


def check_summary(summary):
    assert (summary["psnr"], summary["ssim"], summary["n"], summary["granted"]) == (21.0, "Infinity", 2, 0.5)
    assert (summary["kid"], summary["sets"]["kid"]["n"], summary["costs"]["flops"]) == (0.01, 2, 7)
    assert summary["images"]["captions"] == PROMPTS and summary["images"]["width"] == 2 * 256 + 8
    assert summary["merge_map"]["count"] == 1 and summary["rows"]["nrows"] == 2


def check_history(history):
    assert [one["psnr"] for one in history if "image" in one] == [20.0, 22.0]
    steps = [one for one in history if "step" in one]
    assert [one["tokens/down_blocks.0.attentions.0/self_attention"] for one in steps] == [32, 31, 30]
    assert [one["steps/drift"] for one in steps] == [0.0, 0.1, 0.7]
    assert [one.get("steps/stale") for one in steps] == [None, 0.5, None]


def test_a_cell_of_videos_has_them_beside_the_bases(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = synthetic_run(tmp_path / "out", CELLS[:1], 2, parts=("maps",), frames=3)
    config = {
        "study": build({"prompts": ["p"]}).record() | Run.read(folder.path).study,
        "command": "x",
        "git": None,
        "versions": {},
    }
    (folder.path / "config.yaml").write_text(yaml.safe_dump(config))
    track(Run.read(folder.path), Wandb())
    assert capfd.readouterr() == ("", "")
    base, cell = runs(folder)
    logged = [json.loads(line) for line in inspect(cell).splitlines()]
    items = [one["history"]["item"] for one in logged if one["type"] == "history"]
    (one,) = [item for item in items if "videos._type" in item]
    assert one["videos._type"] == "videos" and one["videos.count"] == 2
    clips = sorted((cell / "files" / "media" / "videos").rglob("*.gif"))
    assert len(clips) == 2 and len(list((base / "files" / "media" / "videos").rglob("*.gif"))) == 2
    with Image.open(clips[0]) as clip:
        assert clip.n_frames == 3 and clip.size == (2 * 256 + 8, 256)


def test_a_second_time_replaces_the_runs(folder):
    tracked(folder)
    first = [path.name.split("-")[-1] for path in runs(folder)]
    tracked(folder)
    assert [path.name.split("-")[-1] for path in runs(folder)] == first
    assert len(set(first)) == 3


def test_all_files_stay_in_the_folder_and_the_environment_is_as_before(folder):
    before, environment = files(folder.path), dict(os.environ)
    elsewhere = files(Path.cwd() / "wandb") if Path("wandb").exists() else {}
    tracked(folder)
    assert not files(folder.path.parent / "home")
    assert (files(Path.cwd() / "wandb") if Path("wandb").exists() else {}) == elsewhere
    assert dict(os.environ) == environment
    after = files(folder.path)
    assert {path: after[path] for path in before} == before
    assert {path.relative_to(folder.path).parts[0] for path in set(after) - set(before)} == {"wandb"}


def test_disabled_writes_nothing(folder, monkeypatch):
    monkeypatch.setattr(wandb, "init", lambda **_: pytest.fail("W&B was asked"))
    tracked(folder, mode="disabled")
    assert not (folder.path / "wandb").exists()


def test_online_without_a_key_is_offline_and_said_in_one_line(folder, monkeypatch, capfd):
    for name in ("WANDB_API_KEY", "NETRC", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    tracked(folder, mode="online")
    out, error = capfd.readouterr()
    assert out == "" and error.count("\n") == 1 and "no key" in error
    assert len(runs(folder)) == 3


@pytest.mark.parametrize("name", ["init", "setup", "Image"])
def test_a_broken_sink_loses_nothing_and_is_one_line(name, folder, monkeypatch, capfd):
    def broken(*_, **__):
        raise OSError("no space\nleft on device")

    monkeypatch.setattr(wandb, name, broken)
    before, environment = files(folder.path), dict(os.environ)
    tracked(folder)
    out, error = capfd.readouterr()
    assert out == "" and error.count("\n") == 1 and "no space left" in error
    after = files(folder.path)
    assert {path: after[path] for path in before} == before and dict(os.environ) == environment


def services():
    children = psutil.Process().children()
    return [one for one in children if one.name().startswith("wandb") and one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("moment", ["init", "Table", "teardown"])
@pytest.mark.parametrize("sent", [signal.SIGSTOP, signal.SIGKILL])
def test_a_service_that_hangs_or_dies_ends_no_run_and_loses_nothing(moment, sent, folder, monkeypatch, capfd):
    def strike(*arguments, **keywords):
        for process in services():
            process.send_signal(sent)
        return function(*arguments, **keywords)

    function, before = getattr(wandb, moment), files(folder.path)
    monkeypatch.setattr(wandb, moment, strike)
    monkeypatch.setattr(sink, "LONGEST", 5.0)
    tracked(folder)
    out, error = capfd.readouterr()
    assert out == "" and error.count("\n") == 1 and "W&B, offline: " in error and "are complete without it" in error
    assert ("nothing was done for 5 s, so its service was ended" in error) == (sent == signal.SIGSTOP)
    after = files(folder.path)
    assert {path: after[path] for path in before} == before and services() == []
    monkeypatch.setattr(wandb, moment, function)
    tracked(folder)  # and the next time all is well
    assert "W&B" not in capfd.readouterr().err and len(runs(folder)) == 3


def test_without_the_package_a_run_goes_on(folder, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "wandb", None)
    tracked(folder)
    assert capfd.readouterr().err.count("\n") == 1


def test_a_run_of_the_users_own_stays_open(folder, tmp_path):
    with wandb.init(mode="offline", dir=tmp_path, settings=wandb.Settings(silent=True)) as own:
        tracked(folder)
        assert wandb.run is own
        own.log({"still": 1})
    assert len(runs(folder)) == 3


def test_runs_are_tracked_again_and_again_after_one_of_the_users_own(folder, tmp_path, capfd):
    with wandb.init(mode="offline", dir=tmp_path, settings=wandb.Settings(silent=True)):
        pass
    for _ in range(2):
        tracked(folder)
    assert "W&B" not in capfd.readouterr().err


def test_a_cell_that_an_agent_asked_for_is_the_agents_run_and_its_base_is_none(folder, monkeypatch):
    folder.results.write_text("".join(line + "\n" for line in folder.results.read_text().splitlines() if "r0.25" not in line))
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "trial7")
    tracked(folder)
    (path,) = runs(folder)
    assert path.name.endswith("-trial7")


def agents_words(spec, cell):
    """What W&B's own agent makes of a cell's parameters."""
    args = {key: {"value": cell[key]} for key in spec["parameters"]}
    return create_sweep_command_args({"args": args})["args_no_hyphens"]


SWEPT = [path.stem for path in STUDIES.glob("*.yaml") if yaml.safe_load(path.read_text()).get("sweep")]


@pytest.mark.parametrize("name", SWEPT)
def test_every_study_is_a_sweep_that_wandb_reads(name):
    study = load_study(name)
    spec = yaml.safe_load(sweep_config(study, [name]))
    assert spec["method"] in ("grid", "random") and spec["command"][-1] == "${args_no_hyphens}"
    assert all(len({"values", "value", "min", "max"} & set(one)) >= 1 for one in spec["parameters"].values())
    if study.primary is not None:
        assert spec["metric"]["goal"] in ("minimize", "maximize") and spec["metric"]["name"] in study.metrics


def test_the_words_of_an_agent_make_the_cell_that_the_local_sweep_makes():
    values = [{"name": "retom", "ratio": 0.5, "alpha": None}, {"name": "tomesd", "randomize": False, "ratio": 1e-05}]
    sweep = {"strategy": {"values": values}, "merging": {"gate": {"value": "none"}, "levels": {"values": [None]}}}
    study = build({"sweep": sweep, "primary": {"metric": "psnr", "better": "higher"}})
    spec = yaml.safe_load(sweep_config(study, ["quickstart"]))
    trials = [{key: one.get("value", one.get("values", [None])[0]) for key, one in spec["parameters"].items()} for _ in values]
    for trial, value in zip(trials, spec["parameters"]["strategy"]["values"], strict=True):
        trial["strategy"] = value
    remote = [cells(load_study("quickstart", ["sweep={}", *agents_words(spec, trial)])) for trial in trials]
    assert [repr(cell.strategy) for (cell,) in remote] == [repr(cell.strategy) for cell in cells(study)]
    assert [cell.merging for (cell,) in remote] == [cell.merging for cell in cells(study)]


def test_the_command_gives_every_trial_a_folder_of_its_own(monkeypatch):
    study = build({"sweep": {"strategy.ratio": {"values": [0.25]}}, "out": "runs/my study"})
    program, flag, script, *rest = yaml.safe_load(sweep_config(study, ["quickstart", "prompts=[a 'b' c]"]))["command"]
    script = script.replace("exec mergekit-diff", "printf '%s\\n'")
    words = subprocess.run([program, flag, script, rest[0], "strategy.ratio=0.25"], env=os.environ | {"WANDB_RUN_ID": "t1"},
                           capture_output=True, text=True, check=True).stdout.splitlines()  # fmt: skip
    assert words == ["run", "quickstart", "prompts=[a 'b' c]", "sweep={}", "control={}", "wandb.mode=online",
                     "out=runs/my study/t1", "strategy.ratio=0.25"]  # fmt: skip


def test_a_study_without_a_sweep_is_refused():
    with pytest.raises(ValueError, match="expected a study with a sweep, got none"):
        sweep_config(build({}), ["mine"])
