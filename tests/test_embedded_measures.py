"""What the embedded models are measured by: real images are as good as themselves, and worse images are found to be worse."""

import torch
from PIL import Image

from mergekit_diff.experiments.models.embedded import measures
from mergekit_diff.experiments.models.embedded.evaluate import real
from mergekit_diff.experiments.models.embedded.generated import Generated


def solid(prompts, generators):
    """Images of one random colour each."""
    colours = [tuple(torch.randint(0, 256, (3,), generator=each).tolist()) for each in generators]
    return [Image.new("RGB", (8, 8), colour) for colour in colours]


def test_real_images_reach_all_of_their_own_recall_and_shuffled_ones_little():
    features, captions = real()
    features, captions = features[:60], captions[:60]
    own = measures.retrieval(features, captions, features, captions)
    assert own["n"] == own["captions"] == 60 and own["share of real"][0] == 1
    shuffled = measures.retrieval(features.roll(3, 0), captions, features, captions)
    assert shuffled["share of real"][0] < 0.2


def test_recall_is_the_mean_of_a_captions_images():
    features, captions = real()
    both = measures.retrieval(features[[0, 3]], [captions[0]] * 2, features[:1], captions[:1])
    alone = measures.retrieval(features[:1], captions[:1], features[:1], captions[:1])
    assert both["n"] == 2 and both["captions"] == 1
    assert both["r@1"][0] == alone["r@1"][0] / 2  # the other image shows another concept


def test_copies_of_real_images_are_at_no_distance_and_noise_is_further_away():
    features, _ = real()
    copies = measures.quality(features[:40], features[:80])
    noise = measures.quality(features[:40] + torch.randn(40, 1280, generator=torch.Generator().manual_seed(0)), features[:80])
    assert abs(copies["distance to the nearest training image"]) < 1e-5 < copies["of training images to each other"]
    assert noise["kid"]["value"] > copies["kid"]["value"]
    assert noise["distance to the nearest training image"] > 0.01


def test_a_sheet_to_name_has_different_concepts_and_keeps_the_answers_apart(tmp_path):
    captions = ["a noto apple", "a flat apple", "a 3d dog", "a noto cat", "a flat cat"]
    rows = measures.to_be_named(captions, 32)
    assert rows == measures.to_be_named(captions, 32)
    assert {captions[row].split()[-1] for row in rows} == {"apple", "dog", "cat"} and len(rows) == 3
    images = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    path = measures.name_sheet(tmp_path, images, [captions[row] for row in rows], measures.hundred(), columns=2)
    with Image.open(path) as sheet:
        assert sheet.size == (16, 16)
    assert (tmp_path / "answers.txt").read_text().splitlines() == [f"{i + 1} {captions[row]}" for i, row in enumerate(rows)]
    assert (tmp_path / "name.txt").read_text().splitlines() == sorted(measures.hundred())


def test_a_video_on_a_sheet_is_a_row_of_its_frames(tmp_path):
    videos = torch.zeros(2, 3, 4, 8, 8, dtype=torch.uint8)
    videos[1, :, 2] = 255
    with Image.open(measures.name_sheet(tmp_path, videos, ["rising", "falling"], ["rising", "falling"], columns=1)) as sheet:
        assert sheet.size == (32, 16)
        assert sheet.getpixel((20, 12)) == (255, 255, 255) and sheet.getpixel((12, 12)) == (0, 0, 0)


def test_generated_images_are_kept_and_only_the_missing_ones_are_made(tmp_path):
    calls = []

    def generate(prompts, generators):
        calls.append(len(prompts))
        return solid(prompts, generators)

    samples = [("a noto apple", seed) for seed in range(5)]
    generated = Generated(tmp_path, generate, (20, 2.0), batch=2)
    first = generated.images(samples)
    assert calls == [2, 2, 1] and first.shape == (5, 3, 8, 8)
    generated.file(samples[3]).unlink()
    assert torch.equal(generated.images(samples), first) and calls == [2, 2, 1, 1]
    assert Generated(tmp_path, generate, (10, 2.0)).file(samples[0]) != generated.file(samples[0])
