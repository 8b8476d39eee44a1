"""The recipe of the embedded Flux-type model: what must hold before hours are spent on it."""

import json

import pytest
import torch
from diffusers import AutoencoderKL
from tiny import tiny_flux_transformer, tiny_unet

from mergekit_diff.experiments.models.embedded import data as emoji
from mergekit_diff.experiments.models.embedded import export as emoji_export
from mergekit_diff.experiments.models.embedded import flow, training
from mergekit_diff.experiments.models.embedded import vae as emoji_vae
from mergekit_diff.experiments.models.embedded.__main__ import main
from mergekit_diff.experiments.models.embedded.card import write as write_card
from mergekit_diff.experiments.models.embedded.flux import (
    backgrounds,
    data,
    evaluate,
    export,
    model,
    samples,
    text,
    transformer,
    vae,
)
from mergekit_diff.experiments.models.embedded.flux.recipe import RECIPE
from mergekit_diff.experiments.models.embedded.flux.scenes import Scene, real, scenes
from mergekit_diff.experiments.models.embedded.instrument import METRICS, refusal
from mergekit_diff.experiments.study.loading import load_study, read_prompts
from mergekit_diff.experiments.study.sweep import cells


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def parameters(module):
    return sum(weight.numel() for weight in module.parameters())


def captions():
    """A caption of every pair on every kind of background."""
    words = emoji.concepts(trained=True)
    every = [backgrounds.Background(kind, colour) for kind in backgrounds.PHRASES for colour in backgrounds.COLOURS]
    return [text.caption(words[name], style, every[i % len(every)]) for i, (name, style) in enumerate(data.pairs())]


# backgrounds


def test_a_background_is_named_by_its_colour_and_kind():
    assert text.caption("apple", "noto", backgrounds.Background("plain", "blue")) == "a noto apple on blue"
    assert text.caption("cat", "flat", backgrounds.Background("stripes", "red")) == "a flat cat on red stripes"
    assert text.caption("apple") == "an apple"


@pytest.mark.parametrize("kind", backgrounds.PHRASES)
def test_only_a_plain_background_is_one_colour(kind):
    painted = backgrounds.paint(backgrounds.Background(kind, "blue"), 64, seeded())
    assert painted.shape == (3, 64, 64) and 0 <= float(painted.min()) and float(painted.max()) <= 1
    assert (float(painted.flatten(1).std(1).max()) < 1e-6) == (kind == "plain")
    assert float(painted[2].mean()) > float(painted[0].mean())  # blue


@pytest.mark.parametrize("kind", sorted(set(backgrounds.PHRASES) - {"plain", "clouds"}))
def test_white_and_dark_backgrounds_keep_their_pattern(kind):
    for colour in ("white", "black"):
        painted = backgrounds.paint(backgrounds.Background(kind, colour), 64, seeded())
        assert float(painted.max() - painted.min()) > 0.15


def test_most_backgrounds_are_not_white_and_every_kind_occurs():
    random = seeded()
    drawn = [backgrounds.draw(random) for _ in range(1000)]
    white = sum(one == backgrounds.Background("plain", "white") for one in drawn) / len(drawn)
    assert 0.05 < white < 0.2
    assert {one.kind for one in drawn} == set(backgrounds.PHRASES)
    assert {one.colour for one in drawn} == set(backgrounds.COLOURS)


def test_an_opaque_pixel_hides_the_background_and_a_transparent_one_shows_it():
    cutout = torch.zeros(1, 4, 2, 2, dtype=torch.uint8)
    cutout[0, 0], cutout[0, 3, 0] = 255, 255  # red everywhere, opaque in the first row
    placed = data.place(cutout, torch.full((1, 3, 2, 2), 0.5))
    assert placed[0, :, 0, 0].tolist() == [1, -1, -1]
    assert placed[0, :, 1, 0].tolist() == [0, 0, 0]


# captions and the encoders that read them


def test_every_word_of_every_caption_is_one_token_in_both_tokenizers():
    tokenizer, tokenizer_2 = text.new_tokenizer(), text.new_tokenizer_2()
    for caption in captions():
        words = len(caption.split())
        assert len(tokenizer.tokenize(caption)) == words + ("3d" in caption)  # CLIP takes digits one by one
        ids = tokenizer_2(caption).input_ids
        assert len(ids) == words + 1 and tokenizer_2.unk_token_id not in ids
        assert words + 3 <= text.LENGTH


def test_the_text_score_reads_captions_with_backgrounds():
    from mergekit_diff.experiments.metrics.text import parse, words

    assert parse("a noto apple on a blue gradient", words()) == ("apple", "noto")
    assert {parse(caption, words())[0] for caption in captions()} == set(emoji.concepts(trained=True).values())


def test_held_out_pairs_are_never_trained_on():
    assert set(data.pairs(held_out=True)) == emoji.held_out()
    assert not set(data.pairs()) & emoji.held_out()
    assert len(data.pairs()) == 230


# the model


@pytest.fixture(scope="module")
def modules():
    return model.new_modules()


@pytest.mark.parametrize(("tokens", "pixels"), [(256, 64), (1024, 128)])
def test_an_image_has_this_many_tokens(tokens, pixels, modules):
    assert model.side(tokens) == pixels
    latents = emoji_vae.encode(emoji_vae.new_vae().eval(), torch.zeros(1, 3, pixels, pixels))
    packed = model.pack(latents)
    assert packed.shape == (1, tokens, 16)
    assert model.positions(tokens).shape == (tokens, 3)
    with torch.no_grad():
        predicted = modules["transformer"](
            hidden_states=packed,
            timestep=torch.ones(1),
            pooled_projections=torch.zeros(1, 256),
            encoder_hidden_states=torch.zeros(1, text.LENGTH, text.WIDTH),
            txt_ids=torch.zeros(text.LENGTH, 3),
            img_ids=model.positions(tokens),
        ).sample
    assert predicted.shape == packed.shape


def test_all_parts_together_have_at_most_ten_million_parameters(modules):
    assert parameters(modules) + parameters(emoji_vae.new_vae()) <= 10_000_000


def test_noise_levels_of_more_tokens_are_higher_by_the_root_of_their_ratio():
    assert model.shift(1024) - model.shift(256) == pytest.approx(0.5 * torch.tensor(4.0).log().item(), abs=0.01)


# training


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A function that makes a work folder with six cutouts, with a transformer so tiny that a training takes seconds."""

    pairs = [(name, style) for name in ("red-apple", "dog-face") for style in emoji.STYLES]
    images = torch.randint(0, 256, (6, 4, 128, 128), generator=seeded(), dtype=torch.uint8)
    monkeypatch.setattr(model, "new_transformer", tiny_flux_transformer)
    monkeypatch.setattr(data, "pairs", lambda held_out=False: pairs)
    monkeypatch.setattr(transformer, "BATCH", {256: 2, 1024: 1})
    monkeypatch.setattr(flow, "KEEP_EVERY", 2)
    monkeypatch.setattr(vae, "KEEP_EVERY", 2)
    monkeypatch.setattr(vae, "BATCH", 2)
    monkeypatch.setattr(emoji_vae, "HELD_OUT", 2)

    def make(name):
        folder = tmp_path / name
        autoencoder = AutoencoderKL.from_pretrained(emoji_export.MODEL / "vae")
        vae.finish(autoencoder, torch.rand(2, 3, 32, 32, generator=seeded())).save_pretrained(folder / "vae")
        torch.save({"images": images, "names": pairs}, folder / "cutouts.pt")
        return folder

    return make


def state(folder, stage):
    return torch.load(training.last_checkpoint(folder, stage), weights_only=True)["state_dict"]


STAGES = {
    "transformer-256": (transformer.FlowTransformer, lambda folder: transformer.train(folder, 256, steps=4)),
    "transformer-1024": (transformer.FlowTransformer, lambda folder: transformer.train(folder, 1024, steps=4)),
    "vae": (emoji_vae.Autoencoder, lambda folder: vae.train(folder, steps=4)),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_training_that_was_killed_ends_with_the_same_weights_to_the_bit(stage, work, monkeypatch):
    trained, train = STAGES[stage]
    step, reached = trained.training_step, []

    def dies(self, batch, index):
        reached.append(self.global_step)
        if self.global_step == 3 and len(reached) == 4:
            raise SystemExit("killed")
        return step(self, batch, index)

    whole, killed = work("whole"), work("killed")
    train(whole)
    monkeypatch.setattr(trained, "training_step", dies)
    with pytest.raises(SystemExit):
        train(killed)
    train(killed)
    assert reached == [0, 1, 2, 3, 2, 3]
    expected, found = state(whole, stage), state(killed, stage)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_batch_is_drawn_from_the_number_of_the_step_alone(work):
    cutouts = data.load(work("one"))
    x, first = samples.captioned(cutouts, 8, 64, seeded(7))
    again, same = samples.captioned(cutouts, 8, 64, seeded(7))
    other, _ = samples.captioned(cutouts, 8, 64, seeded(8))
    assert torch.equal(x, again) and first == same
    assert not torch.equal(x, other)
    assert x.shape == (8, 3, 64, 64) and x.abs().max() <= 1


def test_samples_of_one_batch_have_backgrounds_of_their_own():
    clear = torch.zeros(8, 4, 32, 32, dtype=torch.uint8)
    placed, drawn = samples.on_backgrounds(clear, seeded())
    assert len(set(drawn)) > 4
    assert len({tuple(image.mean((1, 2)).tolist()) for image in placed}) > 4


def test_captions_sometimes_leave_out_the_background_the_style_or_everything(work):
    _, drawn = samples.captioned(data.load(work("one")), 600, 64, seeded())
    share = {
        "empty": sum(caption == "" for caption in drawn) / 600,
        "named": sum(" on " in caption for caption in drawn) / 600,
        "styled": sum(caption.split()[1] in emoji.STYLES for caption in drawn if caption) / 600,
    }
    assert share["empty"] == pytest.approx(samples.DROPPED, abs=0.04)
    assert share["named"] == pytest.approx(samples.NAMED * (1 - samples.DROPPED), abs=0.06)
    assert share["styled"] == pytest.approx((1 - samples.DROPPED) ** 2, abs=0.05)


def test_training_at_1024_tokens_begins_with_the_mean_weights_of_256(work, monkeypatch):
    folder = work("one")
    transformer.train(folder, 256, steps=2)
    seen = {}
    monkeypatch.setattr(flow, "fit", lambda module, *_: seen.update(module.model.state_dict()))
    transformer.train(folder, 1024, steps=2)
    mean = {name.removeprefix("ema.model."): w for name, w in state(folder, "transformer-256").items() if "ema.model" in name}
    assert mean.keys() == seen.keys()
    assert all(torch.equal(seen[name], value) for name, value in mean.items())


def test_the_loss_falls_on_one_batch(work):
    module = transformer.FlowTransformer(work("one"), 256, steps=1, rate=1e-3)
    module.noise_levels = lambda n, random: torch.full((n,), 0.5)  # and so one noise level
    optimizer = torch.optim.AdamW(module.model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = module.training_step(torch.zeros(1), 0)  # without a trainer the step stays 0: the same batch
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


# the pipeline folder


def test_an_exported_folder_generates_the_same_image_as_the_training(work, tmp_path):
    from mergekit_diff.experiments.models import load_pipeline

    folder = work("one")
    transformer.train(folder, 256, steps=2)
    pipe = load_pipeline(str(export.export(folder, 256, tmp_path / "model")))
    assert type(pipe).__name__ == "FluxPipeline"
    assert pipe.default_sample_size * pipe.vae_scale_factor == 128  # pixels, unless the call says otherwise
    module, step = export.trained(folder, 256)
    assert step == 2
    call = transformer.SAMPLING | {"height": 64, "width": 64, "num_inference_steps": 8, "output_type": "pt"}
    loaded, own = (p("a noto apple on blue", generator=seeded(), **call).images for p in (pipe, module.pipeline()))
    assert loaded.shape == (1, 3, 64, 64) and loaded.isfinite().all()
    torch.testing.assert_close(loaded, own, atol=0.02, rtol=0)  # weights were rounded to fp16


def test_guidance_reads_the_empty_caption(work):
    module = transformer.FlowTransformer(work("one"), 256, steps=1, rate=1e-3)
    with torch.no_grad():
        torch.nn.init.normal_(module.ema.model["transformer"].proj_out.weight)
        torch.nn.init.normal_(module.ema.model["transformer"].norm_out.linear.weight)
    pipe = module.pipeline()
    call = transformer.SAMPLING | {"height": 64, "width": 64, "num_inference_steps": 8, "output_type": "pt"}
    guided, plain = (pipe("a cactus", generator=seeded(), **call | {"true_cfg_scale": s}).images for s in (4.0, 1.0))
    assert not torch.equal(guided, plain)


def test_a_sheet_is_drawn_from_the_last_checkpoint(work, monkeypatch):
    folder = work("one")
    with pytest.raises(FileNotFoundError, match="checkpoint"):
        export.sheet(folder, 256)
    transformer.train(folder, 256, steps=2)
    monkeypatch.setattr(transformer, "SHEET", ("a cactus", "a noto apple on blue"))
    assert export.sheet(folder, 256).name == "sheet-256-000002.png"


# evaluation


def test_scenes_take_all_pairs_equally_often_on_many_backgrounds():
    pairs = [("red-apple", "noto"), ("dog-face", "3d")]
    drawn = scenes(pairs, 40, seed=0)
    assert [(scene.name, scene.style) for scene in drawn[:4]] == pairs * 2
    assert len({scene.background for scene in drawn}) > 10
    assert drawn == scenes(pairs, 40, seed=0) != scenes(pairs, 40, seed=1)


def test_the_real_image_of_a_scene_is_its_emoji_on_its_background(work):
    cutouts = data.load(work("one"))
    images = cutouts.images.clone()
    images[:, 3, :64] = 0  # transparent above, opaque below
    images[:, 3, 64:] = 255
    blue = Scene("dog-face", "flat", backgrounds.Background("plain", "blue"))
    (image,) = real(data.Cutouts(images, cutouts.names), [blue], seed=0)
    row = cutouts.names.index(("dog-face", "flat"))
    assert torch.equal(image[:, 64:], images[row, :3, 64:])
    assert image[:, :64].float().std((1, 2)).max() == 0 and image[2, 0, 0] > image[0, 0, 0]
    assert str(blue) == "a flat dog on blue" and blue.foreground() == "a flat dog"


def test_a_model_is_evaluated_by_the_command(work, monkeypatch, tmp_path):
    folder = work("one")
    transformer.train(folder, 256, steps=2)
    weights = export.export(folder, 256, tmp_path / "model")
    monkeypatch.setattr(evaluate, "IMAGES", 8)
    monkeypatch.setattr(evaluate, "HELD_OUT", 6)
    monkeypatch.setattr(evaluate, "STEPS_OF_AN_IMAGE", 1)
    monkeypatch.setattr(evaluate, "refusal", lambda pipe: "no family")
    command = ["embedded", "evaluate", "--model", "emoji-flux", "--folder", str(folder), "--weights", str(weights)]
    monkeypatch.setattr("sys.argv", command)
    main()
    (out,) = (folder / "evaluate").iterdir()
    found = json.loads((out / "measures.json").read_text())
    assert found["seen"]["kid"]["n"] == found["seen"]["kid"]["reference_n"] == 8
    assert found["seen"]["captions"] == 6 and found["held out"]["n"] == 6
    assert found["vae psnr"].keys() == {"128x128", "64x64"}
    assert found["seconds per image"] > 0
    assert found["instrument"] == {"skipped": "no family"}
    assert {line.split(" ", 1)[1].split(" on ")[0] for line in (out / "answers.txt").read_text().splitlines()} <= {
        f"a {style} {word}" for style in emoji.STYLES for word in ("apple", "dog")
    }
    monkeypatch.setattr("sys.argv", ["embedded", "card", *command[2:]])
    main()
    card = (weights / "MODEL_CARD.md").read_text()
    assert "$" not in card and "| not asked yet | 24 |" in card and "| not measured: no family | monotone |" in card
    millions = sum(parameters(part) for part in (model.new_modules(), emoji_vae.new_vae())) / 1e6
    assert f"{millions:.1f} million parameters" in card


def test_a_card_needs_measures_of_the_same_weights(work, tmp_path):
    folder = work("one")
    transformer.train(folder, 256, steps=2)
    weights = export.export(folder, 256, tmp_path / "model")
    with pytest.raises(FileNotFoundError, match=r"expected measures of .*model by the stage evaluate, got none"):
        write_card(RECIPE, weights, folder, None)


def test_the_instrument_of_this_model_is_a_study_with_log_sizes_on_its_own_prompts(work, tmp_path):
    folder = work("one")
    transformer.train(folder, 256, steps=2)
    weights = export.export(folder, 256, tmp_path / "model")
    study = load_study("instrument", [METRICS, f"model={weights}", *evaluate.STUDY])
    assert study.prompts == read_prompts("emoji-flux-64")
    merged = [cell for cell in cells(study) if cell.merging]
    assert len(merged) == 8 and all(cell.merging["proportional"] for cell in merged)


def test_a_model_without_a_family_is_refused_with_the_reason():
    class Unknown(torch.nn.Module):
        pass

    assert "Unknown" in refusal(Unknown())
    assert refusal(tiny_unet()) is None
