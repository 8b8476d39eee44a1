"""The recipe of the embedded Flux-type model: what must hold before hours are spent on it."""

import json

import numpy as np
import pytest
import torch
from recipes import PAIRS, fill, seeded, shrink, six_cutouts
from safetensors import safe_open
from tiny import tiny_flux_pipeline, tiny_unet

from mergekit_diff import merging
from mergekit_diff.experiments.metrics import reference
from mergekit_diff.experiments.metrics.available import check_available
from mergekit_diff.experiments.models import MODELS, load_pipeline, task_of
from mergekit_diff.experiments.models.embedded import autoencoder, backgrounds, card, cutouts
from mergekit_diff.experiments.models.embedded import captions as text
from mergekit_diff.experiments.models.embedded import data as emoji
from mergekit_diff.experiments.models.embedded import vae as emoji_vae
from mergekit_diff.experiments.models.embedded.__main__ import main
from mergekit_diff.experiments.models.embedded.flux import evaluate, model, real, samples
from mergekit_diff.experiments.models.embedded.flux import text as encoders
from mergekit_diff.experiments.models.embedded.flux.transformer import ImageFlow
from mergekit_diff.experiments.models.embedded.instrument import METRICS, refusal
from mergekit_diff.experiments.models.embedded.scenes import Scene
from mergekit_diff.experiments.study.loading import load_study, read_prompts
from mergekit_diff.experiments.study.sweep import cells


def captions():
    """A caption of every pair on every kind of background."""
    words = emoji.concepts(trained=True)
    every = [backgrounds.Background(kind, colour) for kind in backgrounds.PHRASES for colour in backgrounds.COLOURS]
    return [text.caption(words[name], style, background=every[i % len(every)]) for i, (name, style) in enumerate(cutouts.pairs())]


# backgrounds


def test_a_background_is_named_by_its_colour_and_kind():
    assert text.caption("apple", "noto", background=backgrounds.Background("plain", "blue")) == "a noto apple on blue"
    assert text.caption("cat", "flat", background=backgrounds.Background("stripes", "red")) == "a flat cat on red stripes"
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
    placed = cutouts.place(cutout, torch.full((1, 3, 2, 2), 0.5))
    assert placed[0, :, 0, 0].tolist() == [1, -1, -1]
    assert placed[0, :, 1, 0].tolist() == [0, 0, 0]


# captions and the encoders that read them


def test_every_word_of_every_caption_is_one_token_in_both_tokenizers():
    tokenizer, tokenizer_2 = encoders.new_tokenizer(), text.new_tokenizer()
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


# the model


@pytest.fixture(scope="module")
def modules():
    return model.new_modules()


@pytest.mark.parametrize(("tokens", "pixels"), [(256, 64), (1024, 128)])
def test_an_image_has_this_many_tokens(tokens, pixels, modules):
    assert model.side(tokens) == pixels
    latents = autoencoder.encode(emoji_vae.new_vae().eval(), torch.zeros(1, 3, pixels, pixels))
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


# batches


def test_samples_of_one_batch_have_backgrounds_of_their_own():
    clear = torch.zeros(8, 4, 32, 32, dtype=torch.uint8)
    placed = samples.on_backgrounds(clear, seeded())
    assert len({tuple(image.mean((1, 2)).tolist()) for image in placed}) > 4


def test_the_real_image_of_a_scene_is_its_emoji_on_its_background():
    images = six_cutouts()
    images[:, 3, :64] = 0  # transparent above, opaque below
    images[:, 3, 64:] = 255
    blue = Scene("dog-face", "flat", backgrounds.Background("plain", "blue"))
    (image,) = real.images(cutouts.Cutouts(images, PAIRS), [blue], seeded())
    assert torch.equal(image[:, 64:], images[PAIRS.index(("dog-face", "flat")), :3, 64:])
    assert image[:, :64].float().std((1, 2)).max() == 0 and image[2, 0, 0] > image[0, 0, 0]


def test_features_of_500_real_images_ship_for_kid():
    with safe_open(reference.REAL["emoji-flux"], framework="pt") as file:
        captions = json.loads(file.metadata()["captions"])
    assert captions == [str(scene) for scene in real.seen()] and len(captions) == 500
    assert reference.features("kid", "emoji-flux").shape == (500, 1280)
    check_available("kid", "emoji-flux", images=4)


def test_the_stage_reference_writes_features_and_captions_of_real_images(tmp_path, monkeypatch):
    monkeypatch.setattr(real, "REAL", {"emoji-flux": tmp_path / "real.safetensors"})
    monkeypatch.setattr(real, "seen", lambda: [Scene(*pair, backgrounds.Background("plain", "blue")) for pair in PAIRS])
    monkeypatch.setattr(cutouts, "load", lambda folder: cutouts.Cutouts(six_cutouts(), PAIRS))
    monkeypatch.setattr("sys.argv", ["embedded", "reference", "--model", "emoji-flux", "--folder", str(tmp_path)])
    main()
    with safe_open(tmp_path / "real.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["captions"])[0] == str(real.seen()[0])
        assert file.get_tensor("features").shape == (len(PAIRS), 1280) and file.get_tensor("features").float().std() > 0


# the pipeline folder


def test_guidance_reads_the_empty_caption(tmp_path, monkeypatch):
    shrink("emoji-flux", monkeypatch)
    module = ImageFlow(fill("emoji-flux", tmp_path / "one"), 256)
    with torch.no_grad():
        torch.nn.init.normal_(module.ema.model["transformer"].proj_out.weight)
        torch.nn.init.normal_(module.ema.model["transformer"].norm_out.linear.weight)
    pipe, call = module.pipeline(), {"num_inference_steps": 8, "output_type": "pt"} | module.arguments()
    guided, plain = (pipe("a cactus", generator=seeded(), **module.call.keywords(s), **call).images for s in (4.0, 1.0))
    assert not torch.equal(guided, plain)


# evaluation


def test_the_instrument_of_this_model_is_a_study_with_log_sizes_on_its_own_prompts(tmp_path):
    tiny_flux_pipeline().save_pretrained(tmp_path / "model", safe_serialization=True)
    ImageFlow.call.write(tmp_path / "model")
    study = load_study("instrument", [METRICS, f"model={tmp_path / 'model'}", *evaluate.STUDY])
    assert study.prompts == read_prompts("emoji-flux-64")
    merged = [cell for cell in cells(study) if cell.merging]
    assert len(merged) == 8 and all(cell.merging["proportional"] for cell in merged)


# the weights that ship


@pytest.fixture(scope="module")
def shipped():
    return load_pipeline("emoji-flux", "cpu")


def test_the_shipped_model_is_small_and_has_1024_tokens(shipped):
    assert sum(card.parameters(MODELS["emoji-flux"].folder).values()) <= 10e6
    with merging(shipped, "random-dest", ratio=0.5, roles="block") as session:
        call("a cactus on teal", shipped, steps=1)
    rows = [row for row in session.report().to_dicts() if row["calls"]]
    assert {(tuple(row["grid"]), row["tokens"], row["kept"]) for row in rows} == {((32, 32), 1024, 512)}


def test_the_shipped_model_paints_the_background_that_it_is_asked_for(shipped):
    teal, orange = (call(f"a cactus on {colour}", shipped, steps=8) for colour in ("teal", "orange"))
    corner = [np.asarray(image)[:8, :8].mean((0, 1)) for image in (teal, orange)]
    assert corner[0][2] > corner[0][0] + 50 and corner[1][0] > corner[1][2] + 50
    assert teal.size == (128, 128)


def test_all_embedded_weights_together_are_light():
    files = [file for model in MODELS.values() for file in model.folder.glob("*/*.safetensors")]
    assert 0 < sum(file.stat().st_size for file in files) <= 80e6


def call(prompt, pipe, steps):
    return task_of("emoji-flux").generate(
        pipe, prompt, 0, steps=steps, guidance=2.5, size=(None, None), on_step_end=lambda pipe, step, timestep, tensors: tensors
    )


def test_a_model_without_a_family_is_refused_with_the_reason():
    class Unknown(torch.nn.Module):
        pass

    assert "Unknown" in refusal(Unknown())
    assert refusal(tiny_unet()) is None
