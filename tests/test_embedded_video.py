"""The recipe of the embedded video model: what must hold before hours are spent on it."""

import json

import pytest
import torch
from diffusers import WanTransformer3DModel
from PIL import Image

from mergekit_diff.experiments.models import load_pipeline
from mergekit_diff.experiments.models.embedded import data as emoji
from mergekit_diff.experiments.models.embedded import flow, training
from mergekit_diff.experiments.models.embedded import vae as emoji_vae
from mergekit_diff.experiments.models.embedded.__main__ import main
from mergekit_diff.experiments.models.embedded.flux import backgrounds, data
from mergekit_diff.experiments.models.embedded.video import (
    evaluate,
    export,
    latents,
    model,
    motions,
    prompts,
    recipe,
    samples,
    scenes,
    text,
    transformer,
    vae,
)
from mergekit_diff.experiments.study.loading import PROMPTS, read_prompts


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def parameters(module):
    return sum(weight.numel() for weight in module.parameters())


BLUE = backgrounds.Background("plain", "blue")


# motions


@pytest.fixture(scope="module")
def moved():
    """The red share of every pixel of a video of a red square with a green bar on its upper edge, on black, by motion."""
    cutout = torch.zeros(4, 64, 64, dtype=torch.uint8)
    cutout[0], cutout[3] = 255, 255
    cutout[0, :16], cutout[1, :16] = 0, 255
    return {name: motions.render(cutout, torch.zeros(3, 128, 128), motions.path(name, seeded()), 64) for name in motions.MOTIONS}


def centre(video, axis):
    """Mean coordinate of what is not background in every frame, along one axis of (3, F, H, W)."""
    weight = ((video + 1) / 2).sum(0)
    along = torch.linspace(-1, 1, 64).view(*((-1, 1) if axis == "y" else (1, -1)))
    return (weight * along).sum((1, 2)) / weight.sum((1, 2))


def area(video):
    return ((video + 1) / 2).sum((0, 2, 3))


@pytest.mark.parametrize(
    ("motion", "axis", "sign"),
    [("sliding left", "x", -1), ("sliding right", "x", 1), ("rising", "y", -1), ("falling", "y", 1)],
)
def test_a_slide_moves_steadily_in_its_direction_alone(moved, motion, axis, sign):
    assert (sign * centre(moved[motion], axis).diff() > 0.04).all()
    assert centre(moved[motion], "xy".replace(axis, "")).diff().abs().max() < 0.02


def test_growing_and_shrinking_change_the_size_alone(moved):
    assert (area(moved["growing"]).diff() > 0).all() and (area(moved["shrinking"]).diff() < 0).all()
    assert centre(moved["growing"], "x").diff().abs().max() < 0.05


def test_spinning_turns_clockwise_once_around(moved):
    green = ((moved["spinning"] + 1) / 2)[1][None]  # the bar that begins above
    x, y = (centre(green * 2 - 1, axis) for axis in "xy")
    assert y[0] < x[0] - 0.1 and x[2] > 0.1 and y[4] > 0.1 and x[6] < -0.1
    torch.testing.assert_close(moved["spinning"][:, 0], moved["spinning"][:, -1], atol=1e-3, rtol=0)


def test_bouncing_goes_up_and_down_twice(moved):
    signs = centre(moved["bouncing"], "y").diff().sign().tolist()
    assert signs == [-1, -1, 1, 1, -1, -1, 1, 1]


def test_a_pixel_of_the_background_is_the_same_in_all_frames(moved):
    background = backgrounds.paint(backgrounds.Background("checks", "red"), 128, seeded())
    small = torch.zeros(4, 16, 16, dtype=torch.uint8)
    video = motions.render(small, background, motions.path("falling", seeded()), 64)
    torch.testing.assert_close(video, (2 * data.shrink(background[None], 64) - 1).transpose(0, 1).expand_as(video))


def test_hidden_colours_of_a_cutout_do_not_show():
    cutout = torch.zeros(4, 64, 64, dtype=torch.uint8)
    cutout[1] = 255  # green, but transparent
    cutout[:, 24:40, 24:40] = torch.tensor([255, 0, 0, 255], dtype=torch.uint8)[:, None, None]
    video = motions.render(cutout, torch.zeros(3, 128, 128), motions.path("spinning", seeded()), 64)
    assert video[0].max() > 0.9 and video[1].max() == -1


# captions and prompt lists


def test_a_caption_names_the_motion_before_the_background():
    assert text.caption("apple", "noto", "sliding left", BLUE) == "a noto apple sliding left on blue"
    assert text.caption("apple", None, None, None) == "an apple"
    scene = scenes.Scene("red-apple", "3d", "rising", BLUE)
    assert str(scene) == "a 3d apple rising on blue" and scene.foreground() == "a 3d apple"


def test_every_word_of_every_caption_is_one_token():
    tokenizer = text.new_tokenizer()
    drawn = scenes.scenes(data.pairs(), 8 * 230, seeded())
    assert {scene.motion for scene in drawn} == set(motions.MOTIONS)
    for caption in map(str, drawn):
        ids = tokenizer(caption).input_ids
        assert len(ids) == len(caption.split()) + 1 <= text.LENGTH and tokenizer.unk_token_id not in ids


def test_every_pair_is_drawn_in_every_motion():
    drawn = scenes.scenes(data.pairs(), 8 * 230, seeded())
    assert len({(scene.name, scene.style, scene.motion) for scene in drawn}) == 8 * 230


def test_the_prompt_lists_are_what_the_recipe_makes():
    assert {name: (PROMPTS / f"{name}.txt").read_text().splitlines() for name in prompts.lists()} == prompts.lists()


@pytest.mark.parametrize("name", prompts.SEEDS)
def test_a_prompt_list_has_64_concepts_and_every_motion_eight_times(name):
    listed = read_prompts(name)
    found = [motion for caption in listed for motion in motions.MOTIONS if f" {motion} on " in caption]
    assert all(found.count(motion) == 8 for motion in motions.MOTIONS)
    foregrounds = {caption.split(f" {motion} on ")[0] for caption, motion in zip(listed, found, strict=True)}
    words = emoji.concepts()
    assert len({foreground.split(" ", 2)[2] for foreground in foregrounds}) == 64
    assert not foregrounds & {f"a {style} {words[held]}" for held, style in emoji.held_out()}


def test_the_held_out_list_has_every_held_out_pair_once():
    words = emoji.concepts()
    starts = {f"a {style} {words[name]} " for name, style in emoji.held_out()}
    assert all(sum(caption.startswith(start) for caption in read_prompts("emoji-video-held-out")) == 1 for start in starts)


# the model


@pytest.mark.parametrize("frames", [1, 9])
def test_a_video_has_this_many_tokens(frames):
    autoencoder, modules = model.new_vae().eval(), model.new_modules()
    z = emoji_vae.encode(autoencoder, torch.zeros(1, 3, frames, 64, 64))
    assert z.shape == (1, 16, (frames + 1) // 2, 16, 16) and z[0, 0].numel() == model.TOKENS[frames]
    assert emoji_vae.reconstruct(autoencoder, torch.zeros(1, 3, frames, 64, 64)).shape == (1, 3, frames, 64, 64)
    sizes = []
    modules["transformer"].blocks[0].register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape))
    with torch.no_grad():
        states = torch.zeros(1, text.LENGTH, text.WIDTH)
        out = modules["transformer"](hidden_states=z, timestep=torch.ones(1), encoder_hidden_states=states).sample
    assert out.shape == z.shape and sizes == [(1, model.TOKENS[frames], 192)]
    assert model.TOKENS[9] >= 1000


def test_all_parts_together_have_at_most_ten_million_parameters():
    assert parameters(model.new_modules()) + parameters(model.new_vae()) <= 10_000_000


def test_the_first_latent_frame_is_that_of_the_first_frame_alone():
    autoencoder, x = model.new_vae().eval(), torch.rand(1, 3, 9, 64, 64, generator=seeded()) * 2 - 1
    whole, alone = emoji_vae.encode(autoencoder, x), emoji_vae.encode(autoencoder, x[:, :, :1])
    torch.testing.assert_close(whole[:, :, :1], alone)


def test_training_reads_text_as_the_pipeline_does():
    modules = model.new_modules().eval()
    captions = ["a noto apple sliding left on blue", ""]
    pipe = model.new_pipeline(modules, model.new_vae())
    expected, _ = pipe.encode_prompt(captions, do_classifier_free_guidance=False, max_sequence_length=text.LENGTH)
    torch.testing.assert_close(text.encode(text.new_tokenizer(), modules["text_encoder"], captions), expected)


def test_noise_levels_of_training_are_raised_as_those_of_sampling():
    scheduler = model.new_scheduler()
    level = torch.arange(1000, 0, -1) / 1000
    torch.testing.assert_close(model.shifted(level, scheduler.config.shift), scheduler.sigmas)


# training


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A function that makes a work folder with six cutouts, with modules so tiny that a training takes seconds."""

    def tiny():
        return WanTransformer3DModel(
            patch_size=(1, 1, 1),
            num_attention_heads=1,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=text.WIDTH,
            freq_dim=16,
            ffn_dim=16,
            num_layers=1,
            rope_max_seq_len=32,
        )

    pairs = [(name, style) for name in ("red-apple", "dog-face") for style in emoji.STYLES]
    images = torch.randint(0, 256, (6, 4, 128, 128), generator=seeded(), dtype=torch.uint8)
    monkeypatch.setattr(model, "new_transformer", tiny)
    monkeypatch.setattr(data, "pairs", lambda held_out=False: pairs)
    for module, name, value in (
        (transformer, "BATCH", {1: 2, 9: 1}),
        (flow, "KEEP_EVERY", 2),
        (vae, "KEEP_EVERY", 2),
        (vae, "BATCH", 1),
        (vae, "MEASURED", 2),
        (latents, "COPIES", 1),
        (emoji_vae, "HELD_OUT", 2),
    ):
        monkeypatch.setattr(module, name, value)

    def make(name, stage="transformer"):
        folder = tmp_path / name
        folder.mkdir()
        torch.save({"images": images, "names": pairs}, folder / "cutouts.pt")
        if stage == "transformer":
            torch.manual_seed(0)
            model.new_vae().save_pretrained(folder / "vae")
            small = torch.randn(len(pairs) * 8, 16, 5, 4, 4, generator=seeded()).half()  # 80 tokens instead of 1,280
            drawn = scenes.scenes(pairs, len(small), seeded())
            for part in range(8):
                rows = slice(part * len(pairs), (part + 1) * len(pairs))
                latents._write(folder / "latents" / f"part-{part:03d}.pt", small[rows], drawn[rows])
        return folder

    return make


def state(folder, stage):
    return torch.load(training.last_checkpoint(folder, stage), weights_only=True)["state_dict"]


STAGES = {
    "transformer-1": (transformer.VideoFlow, lambda folder: transformer.train(folder, 1, steps=4)),
    "transformer-9": (transformer.VideoFlow, lambda folder: transformer.train(folder, 9, steps=4)),
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

    kind = stage.partition("-")[0]
    whole, killed = work("whole", kind), work("killed", kind)
    train(whole)
    monkeypatch.setattr(trained, "training_step", dies)
    with pytest.raises(SystemExit):
        train(killed)
    train(killed)
    assert reached == [0, 1, 2, 3, 2, 3]
    expected, found = state(whole, stage), state(killed, stage)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_training_on_videos_begins_with_the_mean_weights_of_images(work, monkeypatch):
    folder = work("one")
    transformer.train(folder, 1, steps=2)
    seen = {}
    monkeypatch.setattr(flow, "fit", lambda module, *_: seen.update(module.model.state_dict()))
    transformer.train(folder, 9, steps=2)
    mean = {name.removeprefix("ema.model."): w for name, w in state(folder, "transformer-1").items() if "ema.model" in name}
    assert mean.keys() == seen.keys()
    assert all(torch.equal(seen[name], value) for name, value in mean.items())


def test_images_are_first_frames_and_their_captions_have_no_motion(work):
    stored = latents.load(work("one"))
    x, captions = samples.captioned(stored, 200, 9, seeded())
    first, still = samples.captioned(stored, 200, 1, seeded())
    assert x.shape == (200, 16, 5, 4, 4) and torch.equal(first, x[:, :, :1])
    moving = [any(motion in caption for motion in motions.MOTIONS) for caption in captions]
    assert moving == [bool(caption) for caption in captions] and 0.8 < sum(moving) / 200 < 0.98
    assert not any(motion in caption for caption in still for motion in motions.MOTIONS)
    assert captions == samples.captioned(stored, 200, 9, seeded())[1]


def test_the_loss_falls_on_one_batch(work):
    module = transformer.VideoFlow(work("one"), 9, steps=1, rate=1e-3)
    module.noise_levels = lambda n, random: torch.full((n,), 0.5)
    optimizer = torch.optim.AdamW(module.model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = module.training_step(torch.zeros(1), 0)  # without a trainer the step stays 0: the same batch
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_latents_have_unit_moments():
    torch.manual_seed(0)
    autoencoder, x = model.new_vae().eval(), torch.rand(4, 3, 5, 32, 32) * 2 - 1
    vae.set_moments(autoencoder, x)
    unit = vae.normalise(autoencoder, emoji_vae.encode(autoencoder, x))
    torch.testing.assert_close(unit.mean((0, 2, 3, 4)), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(unit.std((0, 2, 3, 4)), torch.ones(16), atol=1e-3, rtol=0)


def test_only_missing_latents_are_made(work, monkeypatch):
    folder = work("one", "vae")
    vae.train(folder, steps=1)
    latents.build(folder)
    stored = latents.load(folder)
    assert stored.values.shape == (48, 16, 5, 16, 16) and len(stored.scenes) == 48
    lost = folder / "latents" / "part-003.pt"
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=r"expected 8 parts of the stage latents in .*, got 7"):
        latents.load(folder)
    made = []
    monkeypatch.setattr(latents, "encode", lambda *args: made.append(1) or emoji_vae.encode(*args))
    latents.build(folder)
    assert made == [1] and torch.equal(latents.load(folder).values, stored.values)


# the pipeline folder, by the commands


@pytest.fixture
def command(monkeypatch):
    def run(folder, stage, *words):
        monkeypatch.setattr("sys.argv", ["embedded", stage, "--model", "emoji-video", "--folder", str(folder), *words])
        main()

    return run


def test_the_commands_train_export_and_evaluate_a_model_in_three_steps_each(work, command, monkeypatch, tmp_path):
    folder, weights = work("one", "vae"), tmp_path / "model"
    for name, value in (("VIDEOS", 18), ("HELD_OUT", 6), ("NAMED_EACH", 1), ("STEPS_OF_A_VIDEO", 1)):
        monkeypatch.setattr(evaluate, name, value)
    monkeypatch.setattr(transformer, "STEPS_OF_A_VIDEO", 1)
    monkeypatch.setattr(transformer, "SHEET", ("a cactus rising on blue", "a cactus"))
    command(folder, "vae", "--steps", "3")
    command(folder, "latents")
    command(folder, "transformer", "--frames", "1", "--steps", "3")
    command(folder, "transformer", "--frames", "9", "--steps", "3")
    command(folder, "sheet")
    with Image.open(folder / "sheet-9-000003.png") as sheet:
        assert sheet.size == (2 * 9 * 64, 64)
    command(folder, "export", "--weights", str(weights))
    command(folder, "evaluate", "--weights", str(weights))
    (out,) = (folder / "evaluate").iterdir()
    found = json.loads((out / "measures.json").read_text())
    assert found["seen"]["kid"]["n"] == 18 * 5 and found["held out"]["n"] == 6 * 5
    assert sorted(line.split(" ", 1)[1] for line in (out / "answers.txt").read_text().splitlines()) == sorted(motions.MOTIONS)
    with Image.open(out / "name.png") as sheet:
        assert sheet.size == (9 * 64, 8 * 64)
    command(folder, "card", "--weights", str(weights), "--named", "5")
    card = (weights / "MODEL_CARD.md").read_text()
    assert "$" not in card and "| 5 | 12 | missed |" in card
    what, batch = recipe.RECIPE.stages["transformer-9"]
    assert f"| {what} | 3 | {3 * batch} |" in card
    assert [line.split(",")[:2] for line in (weights / "training_log.csv").read_text().splitlines()[1:]] == [
        [stage, "3"] for stage in ("vae", "transformer-1", "transformer-9")
    ]


def test_an_exported_folder_generates_the_same_video_as_the_training(work, tmp_path):
    folder = work("one")
    transformer.train(folder, 9, steps=2)
    module, step = export.trained(folder, 9)
    assert step == 2
    pipe = load_pipeline(str(export.export(folder, 9, tmp_path / "model")))
    assert type(pipe).__name__ == "WanPipeline"
    call = transformer.CALL.keywords(2.5) | {"num_inference_steps": 4, "output_type": "pt"}
    loaded, own = (p("a noto apple rising on blue", generator=seeded(), **call).frames for p in (pipe, module.pipeline()))
    assert loaded.shape == (1, 9, 3, 64, 64) and loaded.isfinite().all()
    torch.testing.assert_close(loaded, own, atol=0.02, rtol=0)  # weights were rounded to fp16
