"""Linear probes: they find what is there and nothing else, and merging is on while features are computed."""

import hashlib
import json

import pytest
import torch
from PIL import Image
from tiny_fetched import put_seer

from mergekit_diff import make
from mergekit_diff.experiments.models import load_pipeline
from mergekit_diff.experiments.models.fetched import DataSet, Pin
from mergekit_diff.experiments.probe import Labelled, cifar10, compare, fit_ridge, labelled
from mergekit_diff.experiments.probe.__main__ import main
from mergekit_diff.experiments.probe.class_token import class_features, merged_features
from mergekit_diff.experiments.probe.comparison import Probed, passes
from mergekit_diff.experiments.probe.table import table
from mergekit_diff.experiments.results.numbers import DASH
from mergekit_diff.experiments.results.proportions import mcnemar, paired_difference, wilson

N, CLASSES = 400, 10


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fake(n, distance, seed=0):
    """Features around a place of their own for each class, and the classes."""
    labels = torch.arange(n) % CLASSES
    return distance * noise(CLASSES, 32, seed=99)[labels] + noise(n, 32, seed=seed), labels


def accuracy(ridge, x, labels):
    return float((ridge(x) == labels).double().mean())


def test_classes_that_are_separable_are_all_found():
    x, labels = fake(N, 5)
    assert accuracy(fit_ridge(x, labels), *fake(N, 5, seed=1)) == 1


def test_shuffled_labels_are_found_by_chance():
    x, labels = fake(N, 5)
    other, own = fake(N, 5, seed=1)
    found = []
    for seed in range(20):
        shuffled = labels[torch.randperm(N, generator=torch.Generator().manual_seed(seed))]
        found.append(accuracy(fit_ridge(x, shuffled), other, own))
    assert sum(found) / len(found) == pytest.approx(1 / CLASSES, abs=0.06)


def test_the_weights_are_those_of_the_normal_equations():
    x, labels = fake(50, 1)
    ridge = fit_ridge(x, labels, (3.0,))
    z = (x.double() - x.double().mean(0)) / x.double().std(0, correction=0)
    targets = torch.nn.functional.one_hot(labels).double()
    weight = torch.linalg.solve(z.T @ z + 3 * torch.eye(32), z.T @ (targets - targets.mean(0)))
    assert torch.allclose(ridge.weight, weight) and torch.equal(ridge(x), (z @ weight + targets.mean(0)).argmax(1))


def test_the_penalty_is_that_of_leaving_images_out_one_at_a_time():
    x, labels = fake(40, 0.5)
    penalties = tuple(10.0**power for power in range(-2, 5))
    z = (x.double() - x.double().mean(0)) / x.double().std(0, correction=0)
    targets = torch.nn.functional.one_hot(labels).double()

    def error(penalty):
        total = 0.0
        for i in range(len(z)):
            rest = torch.arange(len(z)) != i
            centre, middle = z[rest].mean(0), targets[rest].mean(0)
            own = z[rest] - centre
            weight = torch.linalg.solve(own.T @ own + penalty * torch.eye(32), own.T @ (targets[rest] - middle))
            total += float((targets[i] - middle - (z[i] - centre) @ weight).square().sum())
        return total

    assert fit_ridge(x, labels, penalties).penalty == min(penalties, key=error) not in (penalties[0], penalties[-1])


def test_a_feature_that_never_changes_does_no_harm():
    x, labels = fake(N, 5)
    x[:, 3] = 7.0
    assert accuracy(fit_ridge(x, labels), x, labels) == 1


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A random vision transformer, registered like the real one."""
    put_seer(monkeypatch, tmp_path / "cache")
    return load_pipeline("tiny-seer", "cpu")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Files in the form of CIFAR-10: 40 images each, which differ little within a class."""
    monkeypatch.setenv("MERGEKIT_DIFF_MODELS", str(tmp_path / "cache"))
    patterns, pins = torch.randint(0, 256, (CLASSES, 1024, 3), generator=torch.Generator().manual_seed(1)), []
    for images, labels, more in (("data_batch_1.png", "train_lables.json", 5), ("test_batch.png", "test_lables.json", 0)):
        numbers = [i % CLASSES for i in range(40)]
        pixels = (patterns[numbers] + torch.randint(-9, 10, (40, 1024, 3))).clamp(0, 255).to(torch.uint8)
        folder = tmp_path / "cache" / "cifar10"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.numpy()).save(folder / images)
        (folder / labels).write_text(json.dumps(numbers + more * [0]))
        for file in (folder / images, folder / labels):
            content = file.read_bytes()
            pins.append(Pin("cifar10", "p", "1", "", f"p/{file.name}", hashlib.sha256(content).hexdigest(), len(content)))
    monkeypatch.setattr(labelled, "CIFAR10", DataSet(tuple(pins), "MIT"))
    return pins


def test_images_are_balanced_and_drawn_by_the_seed(data):
    train, test = cifar10(30, 20)
    assert train.images.shape == (30, 32, 32, 3) and train.images.dtype == torch.uint8
    assert torch.bincount(train.labels).tolist() == [3] * CLASSES and torch.bincount(test.labels).tolist() == [2] * CLASSES
    same, other = cifar10(30, 20)[0], cifar10(30, 20, seed=1)[0]
    assert torch.equal(same.images, train.images) and not torch.equal(other.images, train.images)
    of_class = [train.images[train.labels == i].int() for i in range(CLASSES)]
    assert all((images.amax(0) - images.amin(0)).max() <= 18 for images in of_class)  # labels belong to their images


@pytest.mark.parametrize("n", [0, 15, 50, -10])
def test_a_number_of_images_that_cannot_be_balanced_is_refused(n, data):
    with pytest.raises(ValueError, match=f"^expected a number of images that is a multiple of 10, at most 40; got {n}$"):
        cifar10(n, 20)


def test_labels_and_images_are_equally_many():
    with pytest.raises(ValueError, match=r"^expected a label for each of 2 images, got 3$"):
        Labelled(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))


def test_changed_data_are_not_read(data):
    content = data[2].path.read_bytes()
    data[2].path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match="as it was pinned, got other bytes; run mergekit-diff models fetch cifar10"):
        cifar10(20, 20)


def test_merging_is_on_while_features_are_computed(tiny):
    images, counts, calls = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8), [], []
    query = next(module for name, module in tiny.transformer.named_modules() if name.endswith(("q_proj", "query")))
    handle = query.register_forward_pre_hook(lambda _, args: counts.append(args[0].shape[1]))
    base = class_features(tiny, images, lambda: calls.append(1), batch=2)
    strategy = make("strategy", {"name": "tome", "ratio": 0.25})
    merged, granted = merged_features(tiny, strategy, images, lambda: calls.append(1), batch=2)
    again = class_features(tiny, images, lambda: calls.append(1), batch=2)
    handle.remove()
    assert counts == [257, 257, 257, 193, 193, 193, 257, 257, 257] and granted == 0.25
    assert base.shape == merged.shape == (5, 32) and len(calls) == 15
    assert not torch.allclose(base, merged, rtol=1e-3) and torch.equal(base, again)


def test_features_do_not_depend_on_the_batch(tiny):
    images, strategy = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8), make("strategy", {"name": "tome", "ratio": 0.5})
    alone, together = (merged_features(tiny, strategy, images, lambda: None, batch)[0] for batch in (1, 5))
    assert torch.allclose(alone, together, atol=1e-4)


def test_probes_are_compared_on_the_same_images(tiny, data):
    (train, test), calls = cifar10(40, 40), []
    strategies = {f"tome, ratio={ratio}": make("strategy", {"name": "tome", "ratio": ratio}) for ratio in (0.25, 0.5)}
    probed = compare(tiny, train, test, strategies, refit=True, advance=lambda: calls.append(1))
    merged = [(name, fitted) for name in strategies for fitted in ("unmerged", "merged")]
    assert [(one.name, one.fitted) for one in probed] == [("pixels", "pixels"), ("unmerged", "unmerged"), *merged]
    assert [one.granted for one in probed] == [0, 0, 0.25, 0.25, 0.5, 0.5] and len(calls) == passes(40, 40, 2, True)
    assert probed[0].right.all() and all(one.right.shape == (40,) for one in probed)


def test_the_table_counts_what_was_lost_and_gained():
    base, merged = torch.tensor([True] * 8 + [False] * 4), torch.tensor([False] * 6 + [True] * 3 + [False] * 3)
    lines = table([Probed("unmerged", "unmerged", 0.0, 1.0, base), Probed("tome", "unmerged", 0.5, 1.0, merged)])
    assert lines[1] == ["unmerged", "unmerged", DASH, "1", "66.7", "[39.1, 86.2]", *5 * [DASH]]
    assert lines[2][4] == "25.0" and lines[2][6:9] == ["6", "1", "-41.7"] and lines[2][10] == "0.125"


def test_statistics_of_proportions_are_the_published_ones():
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert mcnemar(0, 0) == 1 and mcnemar(9, 1) == pytest.approx(22 / 1024)
    low, high = paired_difference(0, 0, 400)
    assert low == -high and 0 < high < 0.01


def test_the_interval_of_a_difference_holds_it_in_95_of_100_samples():
    """Of 400 images, of which 6% are lost and 3% are gained."""
    draws = torch.rand(2000, 400, generator=torch.Generator().manual_seed(0))
    counts = zip((draws < 0.06).sum(1).tolist(), (draws > 0.97).sum(1).tolist(), strict=True)
    held = [low <= -0.03 <= high for low, high in (paired_difference(lost, gained, 400) for lost, gained in counts)]
    assert 0.93 < sum(held) / len(held) < 0.97


def test_the_command_prints_the_table(tiny, data, capsys):
    words = ["--model", "tiny-seer", "--train", "40", "--test", "20", "--device", "cpu"]
    assert main([*words, "--ratios", "0", "0.25", "--strategies", "tome"]) == 0
    said = capsys.readouterr()
    assert "tome, ratio=0.25" in said.out and "40 training and 20 test images" in said.out and not said.err
    for wrong, message in {
        "--model emoji": "expected a model with the task features",
        "--strategies tomme": "did you mean 'tome'",
        "--ratios 2": "ratio",
        "--batch 0": "expected a batch of at least 1",
        "--train 11": "a multiple of 10",
    }.items():
        assert main([*words, *wrong.split()]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_data_that_were_not_fetched_are_asked_for(tiny, capsys):
    assert main(["--model", "tiny-seer"]) == 2
    assert "run mergekit-diff models fetch cifar10" in capsys.readouterr().err
