"""Language models that read: what follows is measured after the beginning has merged, and a study of it runs to its report."""

import math
import os
from dataclasses import replace

import pytest
import torch
from tiny_fetched import put_reader
from torch.nn import functional as F

from mergekit_diff import merging
from mergekit_diff.experiments.cli import main
from mergekit_diff.experiments.metrics import metrics
from mergekit_diff.experiments.models import load_pipeline
from mergekit_diff.experiments.results.images import is_whole, open_frames
from mergekit_diff.experiments.results.run import Run
from mergekit_diff.experiments.study.loading import build
from mergekit_diff.experiments.tasks import TEXT
from mergekit_diff.experiments.tasks import reading as readings
from mergekit_diff.experiments.tasks.reading import passage, passages

WHOLE = 4 + 16


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A random model of letters, registered like the real one."""
    put_reader(monkeypatch, tmp_path / "cache")
    return load_pipeline("tiny-reader", "cpu")


def value(name, reading, other="passage 1"):
    """A metric of a reading."""
    return metrics()[name].value(reading, other)


def test_the_losses_are_those_of_the_text_in_one_call(tiny):
    reading = TEXT.generate(tiny, "passage 1", 3)
    tokens, said = tiny.encode(passage("passage 1")), tiny.encode(f" {reading.fact}")
    end, found = tiny.beginning - len(said), []
    for place in range(end):  # the fact is somewhere before the end
        text = torch.tensor([[*tokens[:place], *said, *tokens[place : end + tiny.rest]]])
        expected = F.log_softmax(tiny.transformer(text).logits[0].float(), -1)[-tiny.rest - 1 : -1]
        losses = -expected.gather(1, text[0, -tiny.rest :, None])[:, 0]
        found += [place] * torch.allclose(losses, torch.tensor(reading.losses), atol=1e-4)
    assert len(found) == 1 and len(reading.losses) == tiny.rest and reading.kept == 1.0
    assert value("perplexity", reading) == pytest.approx(math.exp(sum(reading.losses) / tiny.rest))


def test_the_same_seed_hides_the_same_fact(tiny):
    first, again, other = (TEXT.generate(tiny, "passage 1", seed) for seed in (0, 0, 1))
    assert first == again and first.fact != other.fact and first.losses != other.losses
    assert 0 < value("recall", first) < 1 and len(first.recalls) == 5


@pytest.mark.parametrize("strategy, ratio", [("tome", 0.5), ("retom", 0.25), ("random-dest", 0.5)])
def test_keys_merge_and_the_model_is_restored(tiny, strategy, ratio):
    base = TEXT.generate(tiny, "passage 2", 0)
    with merging(tiny, strategy, ratio=ratio, roles=["key_value"], strict=True):
        merged = TEXT.generate(tiny, "passage 2", 0)
    most = tiny.beginning - 1 - WHOLE
    assert merged.kept == pytest.approx(1 - ratio * most / (tiny.beginning - 1), abs=0.05) and base.kept == 1.0
    assert merged.losses != base.losses and TEXT.generate(tiny, "passage 2", 0) == base
    assert value("agreement", base, base) == 1.0 and value("cache", merged) == merged.kept


def test_a_reading_is_read_back_from_its_file(tiny, tmp_path):
    reading, path = TEXT.generate(tiny, "passage 1", 0), tmp_path / f"a{TEXT.suffix}"
    path.write_bytes(TEXT.encode(reading))
    assert is_whole(path) and TEXT.read(path) == reading == TEXT.as_tensor(reading)
    assert open_frames(path)[0].tobytes() == TEXT.frames(reading)[0].tobytes()
    path.write_bytes(path.read_bytes()[:-200])
    assert not is_whole(path)


def test_metrics_of_texts_are_what_they_say(tiny):
    reading = TEXT.generate(tiny, "passage 1", 0)
    sure = replace(reading, losses=[0.0] * 4, recalls=[math.log(2)] * 3, guesses=[1, 2, 3, 4])
    assert value("perplexity", sure) == 1.0 and value("recall", sure) == pytest.approx(0.5)
    assert value("agreement", sure, replace(sure, guesses=[1, 2, 0, 0])) == 0.5
    with pytest.raises(ValueError, match="as many tokens as the base has, 3, got 4"):
        value("agreement", sure, replace(sure, guesses=[1, 2, 3]))


def test_other_passages_than_the_released_ones_are_refused(tmp_path, monkeypatch):
    assert len(passages()) == 12 and len(set(passages())) == 12
    (tmp_path / "a.txt").write_text("others\n")
    monkeypatch.setattr(readings, "PASSAGES", tmp_path / "a.txt")
    passages.cache_clear()
    with pytest.raises(ValueError, match="expected the passages that this version was released with"):
        passages()


@pytest.mark.parametrize(
    "words, message",
    [
        ({"steps": 2}, "steps: expected 1, since tiny-reader makes a text, got 2"),
        ({"prompts": ["passage 13"]}, "prompts: expected 'passage N' with N from 1 to 12, got 'passage 13'"),
        ({"prompts": ["a cat"]}, "prompts: expected 'passage N' with N from 1 to 12, got 'a cat'"),
        ({"metrics": ["psnr"]}, "metrics: expected a metric for text, got 'psnr'; possible: .*"),
    ],
)
def test_a_study_of_a_text_is_checked(tiny, words, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        build({"model": "tiny-reader", **words})


def test_a_study_of_readings_runs_to_its_report(tiny, tmp_path, capsys):
    words = ["model=tiny-reader", "prompts=[passage 1, passage 2]", "control={strategy.name: random-dest}", "device=cpu",
             "sweep={strategy.name: {values: [random-dest, retom]}, strategy.ratio: {value: 0.5}, strategy.window: {value: 4}}",
             "wandb.mode=disabled", f"out={tmp_path / 'run'}", "primary.better=lower"]  # fmt: skip
    study = tmp_path / "a.yaml"
    study.write_text("question: Which keys?\nstrategy: random-dest\n")
    assert main(["run", str(study), *words]) == 0, capsys.readouterr().err
    run = Run.read(tmp_path / "run")
    assert run.noun == "reading" and len(run.rows) == 2 * 4
    assert all(row.metrics["perplexity"] > 1 and 0 < row.metrics["recall"] < 1 for row in run.rows)
    assert all((row.metrics["cache"] == 1) == (row.role == "base") for row in run.rows)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Readings" in page and "A language model keeps" in page and "perplexity" in page


def test_a_missing_package_is_named_in_one_line(tmp_path, monkeypatch):
    from mergekit_diff.experiments.models.fetched import smollm2

    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^expected the package gguf, .*: pip install 'mergekit-diff\[gguf\]'$"):
        smollm2.load(tmp_path / "a.gguf", "float32")


@pytest.mark.skipif("MERGEKIT_DIFF_MODELS" not in os.environ, reason="needs MERGEKIT_DIFF_MODELS, a folder with smollm2 in it")
def test_the_fetched_model_reads_english_and_recalls_a_fact():
    pytest.importorskip("gguf")
    pipe = load_pipeline("smollm2", "cpu")
    read = [TEXT.generate(pipe, "passage 1", seed) for seed in range(3)]
    assert all(value("perplexity", reading) < 20 and value("recall", reading) > 0.2 for reading in read)
    assert any(reading.answer in reading.fact for reading in read)
