"""Vision transformers: the network is read out of its file, and a study of its features runs to its report."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_file import onnx_file, seer_file
from tiny_fetched import NAMES, SIZES, put_seer, tiny_seer

from mergekit_diff import merging
from mergekit_diff.experiments.cli import main
from mergekit_diff.experiments.metrics import metrics
from mergekit_diff.experiments.models import load_pipeline
from mergekit_diff.experiments.models.fetched import FETCHED, checked
from mergekit_diff.experiments.models.fetched.vit_focus import read_seer
from mergekit_diff.experiments.results.images import is_whole, open_frames
from mergekit_diff.experiments.results.run import Run
from mergekit_diff.experiments.study.loading import build
from mergekit_diff.experiments.tasks import FEATURES
from mergekit_diff.experiments.tasks.features import Seen, normalized, view


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A random model, registered like the real one."""
    put_seer(monkeypatch, tmp_path / "cache")
    return load_pipeline("tiny-seer", "cpu")


def same(a, b):
    """Whether two outputs are equal to the bit."""
    return torch.equal(a.tokens, b.tokens) and torch.equal(a.saliency, b.saliency)


def test_a_model_is_read_back_from_its_file(tiny):
    seer = tiny_seer()
    for own, other in ((seer.transformer, tiny.transformer), (seer.decoder, tiny.decoder)):
        again = other.state_dict()
        assert all(torch.equal(value, again[name]) for name, value in own.state_dict().items() if "mask_token" not in name)


def test_a_file_that_lacks_weights_is_refused_in_one_line(tmp_path):
    seer, path = tiny_seer(), tmp_path / "a.onnx"
    old = {new: file for file, new in NAMES.items()}
    for content in (onnx_file({}, []), seer_file(seer, old).replace(b"decoder.bn2", b"decoder.bm2")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^expected the weights of a DINOv2") as error:
            read_seer(path, SIZES, (4, 4, 4))
        assert "\n" not in str(error.value)


def test_views_differ_and_stay_what_they_are():
    assert view("view 1").size == (224, 224) and view("view 1").tobytes() == view("view 1").tobytes()
    assert len({view(f"view {i}").tobytes() for i in range(1, 17)}) == 16
    assert normalized(view("view 3")).shape == (3, 224, 224) and normalized(view("view 3")).abs().max() < 3


def test_tokens_merge_and_the_model_is_restored(tiny):
    base = FEATURES.generate(tiny, "view 1")
    with merging(tiny, "tome", ratio=0.25, strict=True) as session:
        merged = FEATURES.generate(tiny, "view 1")
    assert session.report().granted == 0.25 and base.tokens.shape == (257, 32)
    assert not same(merged, base) and same(FEATURES.generate(tiny, "view 1"), base)
    values = {name: metrics()[name].value(merged, base) for name in FEATURES.metrics}
    assert values["cosine"] < 1 and all(abs(value) < 1 + 1e-9 for value in values.values())
    assert all(metrics()[name].value(base, base) == pytest.approx(1) for name in FEATURES.metrics)


def test_metrics_of_features_are_what_they_say():
    tokens, saliency = torch.eye(4), torch.tensor([[0.9, 0.8], [0.1, 0.2]])
    base, turned = Seen(tokens, saliency), Seen(-tokens, 1 - saliency)
    half = Seen(tokens, torch.tensor([[0.9, 0.2], [0.1, 0.2]]))
    assert [metrics()[name].value(turned, base) for name in FEATURES.metrics] == pytest.approx([-1, -1, 0])
    assert metrics()["overlap"].value(half, base) == 0.5
    assert metrics()["saliency"].value(Seen(tokens, torch.ones(2, 2)), base) == 0


def test_an_output_is_read_back_from_its_file(tiny, tmp_path):
    output, path = FEATURES.generate(tiny, "view 2"), tmp_path / f"a{FEATURES.suffix}"
    path.write_bytes(FEATURES.encode(output))
    assert is_whole(path) and same(FEATURES.read(path), output) and same(FEATURES.as_tensor(output), output)
    assert open_frames(path)[0].size == (224, 224)


@pytest.mark.parametrize("prompt", ["a cat", "view 0", "view 100"])
def test_a_prompt_names_a_view(tiny, prompt):
    with pytest.raises(ValueError, match=f"^prompts: expected 'view N' with N from 1 to 99, got '{prompt}'$"):
        build({"model": "tiny-seer", "prompts": [prompt]})


def test_a_study_of_features_runs_to_its_report(tiny, tmp_path, capsys):
    words = ["model=tiny-seer", "prompts=[view 1, view 2]", "control={strategy.name: tome}", "wandb.mode=disabled", "device=cpu",
             "sweep={strategy.name: {values: [tome, retom]}, strategy.ratio: {value: 0.25}}", f"out={tmp_path / 'run'}",
             "primary.better=higher"]  # fmt: skip
    study = tmp_path / "a.yaml"
    study.write_text("question: Which patches?\nstrategy: tome\n")
    assert main(["run", str(study), *words]) == 0, capsys.readouterr().err
    run = Run.read(tmp_path / "run")
    assert run.noun == "map" and len(run.rows) == 2 * 4
    assert all(0 < row.metrics["cosine"] < 1 for row in run.rows if row.role != "base")
    assert "Merge maps" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.skipif("MERGEKIT_DIFF_MODELS" not in os.environ, reason="needs MERGEKIT_DIFF_MODELS, a folder with vit-focus in it")
def test_the_fetched_network_is_that_of_onnxruntime():
    runtime = pytest.importorskip("onnxruntime")
    path, x = checked(FETCHED["vit-focus"].pin), normalized(view("view 1"))[None]
    session, seer = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]), read_seer(Path(path))
    with torch.no_grad():
        saliency = seer.saliency(seer.transformer(pixel_values=x).last_hidden_state)
    assert np.abs(session.run(None, {"input_image": x.numpy()})[0].squeeze() - saliency[0].numpy()).max() < 1e-4
