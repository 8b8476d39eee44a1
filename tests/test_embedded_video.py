"""The recipe of the embedded video model: what must hold before hours are spent on it."""

import pytest
import torch
from PIL import Image
from recipes import PAIRS, seeded, six_cutouts

from mergekit_diff.experiments.models.embedded import autoencoder, backgrounds, captions, cutouts, optimizers
from mergekit_diff.experiments.models.embedded import data as emoji
from mergekit_diff.experiments.models.embedded.scenes import Scene, random_scenes, scenes
from mergekit_diff.experiments.models.embedded.video import evaluate, model, motions, prompts, samples, text, vae
from mergekit_diff.experiments.models.embedded.video.transformer import VideoFlow
from mergekit_diff.experiments.study.loading import PROMPTS, read_prompts
from mergekit_diff.experiments.tasks import PICTURE

BLUE = backgrounds.Background("plain", "blue")


# motions


@pytest.fixture(scope="module")
def moved():
    """The red share of every pixel of a video of a red square with a green bar on its upper edge, on black, by motion."""
    cutout = torch.zeros(4, 64, 64, dtype=torch.uint8)
    cutout[0], cutout[3] = 255, 255
    cutout[0, :16], cutout[1, :16] = 0, 255
    return {name: motions.render(cutout, torch.zeros(3, 128, 128), motions.path(name), 64) for name in motions.MOTIONS}


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
    video = motions.render(small, background, motions.path("falling"), 64)
    torch.testing.assert_close(video, (2 * cutouts.shrink(background[None], 64) - 1).transpose(0, 1).expand_as(video))


def test_hidden_colours_of_a_cutout_do_not_show():
    cutout = torch.zeros(4, 64, 64, dtype=torch.uint8)
    cutout[1] = 255  # green, but transparent
    cutout[:, 24:40, 24:40] = torch.tensor([255, 0, 0, 255], dtype=torch.uint8)[:, None, None]
    video = motions.render(cutout, torch.zeros(3, 128, 128), motions.path("spinning"), 64)
    assert video[0].max() > 0.9 and video[1].max() == -1


# captions and prompt lists


def test_a_caption_names_the_motion_before_the_background():
    assert captions.caption("apple", "noto", "sliding left", BLUE) == "a noto apple sliding left on blue"
    assert captions.caption("apple") == "an apple"
    scene = Scene("red-apple", "3d", BLUE, "rising")
    assert str(scene) == "a 3d apple rising on blue" and scene.foreground() == "a 3d apple"


def test_every_word_of_every_caption_is_one_token():
    tokenizer = text.new_tokenizer()
    drawn = scenes(cutouts.pairs(), 8 * 230, seeded(), motions.MOTIONS)
    assert {scene.motion for scene in drawn} == set(motions.MOTIONS)
    for caption in map(str, drawn):
        ids = tokenizer(caption).input_ids
        assert len(ids) == len(caption.split()) + 1 <= captions.LENGTH and tokenizer.unk_token_id not in ids


def test_every_pair_is_drawn_in_every_motion():
    drawn = scenes(cutouts.pairs(), 8 * 230, seeded(), motions.MOTIONS)
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
    video_vae, modules = model.new_vae().eval(), model.new_modules()
    z = autoencoder.encode(video_vae, torch.zeros(1, 3, frames, 64, 64))
    assert z.shape == (1, 16, (frames + 1) // 2, 16, 16) and z[0, 0].numel() == model.TOKENS[frames]
    assert autoencoder.reconstruct(video_vae, torch.zeros(1, 3, frames, 64, 64)).shape == (1, 3, frames, 64, 64)
    sizes = []
    modules["transformer"].blocks[0].register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape))
    with torch.no_grad():
        states = torch.zeros(1, captions.LENGTH, captions.WIDTH)
        out = modules["transformer"](hidden_states=z, timestep=torch.ones(1), encoder_hidden_states=states).sample
    assert out.shape == z.shape and sizes == [(1, model.TOKENS[frames], 192)]
    assert model.TOKENS[9] >= 1000


def test_the_first_latent_frame_is_that_of_the_first_frame_alone():
    video_vae, x = model.new_vae().eval(), torch.rand(1, 3, 9, 64, 64, generator=seeded()) * 2 - 1
    whole, alone = autoencoder.encode(video_vae, x), autoencoder.encode(video_vae, x[:, :, :1])
    torch.testing.assert_close(whole[:, :, :1], alone)


def test_training_reads_text_as_the_pipeline_does():
    modules = model.new_modules().eval()
    prompts = ["a noto apple sliding left on blue", ""]
    pipe = model.new_pipeline(modules, model.new_vae())
    expected, _ = pipe.encode_prompt(prompts, do_classifier_free_guidance=False, max_sequence_length=captions.LENGTH)
    torch.testing.assert_close(text.encode(text.new_tokenizer(), modules["text_encoder"], prompts), expected)


# batches


def test_images_are_single_frames_and_their_captions_have_no_motion():
    emoji_cutouts = cutouts.Cutouts(six_cutouts(), PAIRS)
    x, moving = samples.captioned(emoji_cutouts, 40, 9, seeded())
    first, still = samples.captioned(emoji_cutouts, 40, 1, seeded())
    assert x.shape == (40, 3, 9, 64, 64) and first.shape == (40, 3, 1, 64, 64)
    named = [any(motion in caption for motion in motions.MOTIONS) for caption in moving]
    assert named == [bool(caption) for caption in moving] and sum(named) > 25
    assert not any(motion in caption for caption in still for motion in motions.MOTIONS)


def test_an_image_of_training_is_the_middle_frame_of_a_slide():
    emoji_cutouts = cutouts.Cutouts(six_cutouts(), PAIRS)
    (scene,) = random_scenes(PAIRS, 1, seeded(), ("sliding left",))
    (whole,) = samples.videos(emoji_cutouts, [scene], seeded(5))
    image = emoji_cutouts.images[PAIRS.index((scene.name, scene.style))]
    torch.testing.assert_close(samples._still(image, scene.background, seeded(5)), whole[:, 4:5])


def test_latents_have_unit_moments():
    torch.manual_seed(0)
    video_vae, x = model.new_vae().eval(), torch.rand(4, 3, 5, 32, 32) * 2 - 1
    unit = vae.normalise(vae.with_moments(video_vae, x), autoencoder.encode(video_vae, x))
    torch.testing.assert_close(unit.mean((0, 2, 3, 4)), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(unit.std((0, 2, 3, 4)), torch.ones(16), atol=1e-3, rtol=0)


# evaluation


def test_a_video_is_kept_as_a_strip_of_its_frames_to_the_byte():
    from types import SimpleNamespace

    frames = torch.randint(0, 256, (2, 9, 3, 8, 8), generator=seeded())
    strips = evaluate.as_strips(SimpleNamespace(frames=frames / 255))
    assert len(strips) == 2 and all(isinstance(strip, Image.Image) and strip.size == (72, 8) for strip in strips)
    kept = torch.stack([PICTURE.as_tensor(strip) for strip in strips])
    assert torch.equal(evaluate.as_videos(kept).transpose(1, 2).long(), frames)


def test_the_sheet_has_as_many_videos_of_every_motion():
    drawn = scenes(cutouts.pairs(), 100, seeded(), motions.MOTIONS)
    shown = [drawn[row].motion for row in evaluate.to_be_named(drawn)]
    assert all(shown.count(motion) == 2 for motion in motions.MOTIONS) and len(shown) == 16


def test_muon_trains_the_convolutions_between_many_channels():
    net = model.new_vae()
    groups = optimizers.muon(net, 1e-3, optimizers.of_convolutions).param_groups
    orthogonal, outside = (group["params"] for group in groups)
    assert len(orthogonal) + len(outside) == len(list(net.parameters()))
    assert all(weight.ndim > 3 and min(weight.shape[:2]) >= optimizers.CHANNELS for weight in orthogonal)
    assert sum(map(torch.numel, orthogonal)) > 0.95 * sum(map(torch.numel, net.parameters()))


def test_the_text_encoder_is_trained_by_adamw_at_a_tenth_of_the_rate():
    modules = model.new_modules()
    groups = optimizers.muon(modules, 1e-3, slower=VideoFlow.slower).param_groups
    (slow,) = [group for group in groups if group["lr"] == pytest.approx(1e-4)]
    assert not slow["use_muon"] and len(groups) == 3
    assert {id(weight) for weight in slow["params"]} == {id(weight) for weight in modules["text_encoder"].parameters()}
