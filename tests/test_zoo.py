"""Every strategy in an image transformer and in a video transformer; what CA-ToMe does over the steps."""

import pytest
import torch
from test_compile import trajectory
from test_compile import unet as unet
from tiny_families import build, predict

from mergekit_diff import MergeStrategy, make, merging, names
from mergekit_diff.experiments.study.rehearsal import planning_for
from mergekit_diff.strategies.wrapper import Wrapper

MODELS = {"flux": 2, "wan": 3}
PAIRS = [(model, name) for model, axes in MODELS.items() for name in planning_for(axes)]


@pytest.fixture(autouse=True)
def forget_graphs():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(("model", "name"), PAIRS)
def test_every_strategy_merges_in_transformers_and_leaves_them_as_they_were(model, name):
    transformer, inputs = build(model)
    base = predict(transformer, inputs)
    roles = "feed_forward" if name == "sdtm" else None  # in which alone it merges in its last phase, that of a single call
    with merging(transformer, name, ratio=0.5, roles=roles, strict=True) as session:
        first = predict(transformer, inputs)
        session.new_image()
        again = predict(transformer, inputs)
    assert first.isfinite().all() and torch.equal(first, again) and not torch.equal(first, base)
    assert session.report().granted == pytest.approx(0.5, abs=0.15)
    assert torch.equal(predict(transformer, inputs), base)


def test_a_video_strategy_says_in_one_line_that_an_image_has_no_frames():
    transformer, inputs = build("flux")
    base = predict(transformer, inputs)
    with pytest.raises(ValueError, match="frames, height and width") as raised, merging(transformer, "vidtome"):
        predict(transformer, inputs)
    assert "\n" not in str(raised.value) and torch.equal(predict(transformer, inputs), base)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ("sito", "abp"))
def test_generated_code_gives_the_eager_output(unet, name):
    outputs = []
    for compiled in (False, True):
        with merging(unet, name, ratio=0.5, refresh=2) as session:
            if compiled:
                session.compile()
            outputs.append(trajectory(unet, 8, steps=3))
    torch.testing.assert_close(*outputs, atol=1e-4, rtol=0)


def test_every_strategy_that_reads_its_last_plan_for_a_number_says_what_it_shares():
    wrapped = make("strategy", {"name": "dynamic-ratio", "inner": "ca-tome"})
    for strategy in (*(make("strategy", name) for name in names("strategy")), wrapped):
        if type(strategy).after not in (MergeStrategy.after, Wrapper.after) or strategy is wrapped:
            assert strategy.batch_shared and "last_plan" in strategy.asks()


@pytest.mark.parametrize(
    ("threshold", "kept", "compiled"),
    (
        (-1.0, [128, 64, 64, 128], False),
        (1.0, [128, 256, 256, 128], False),
        pytest.param(-1.0, [128, 64, 64, 128], True, marks=pytest.mark.nightly),
        (1.0, [128, 256, 256, 128], True),
    ),
)
def test_ca_tome_follows_the_scores_of_the_step_before(unet, threshold, kept, compiled):
    sample, text = torch.randn(2, 4, 16, 16), torch.randn(2, 6, 32)
    numbers, is_base = [], []

    @torch.no_grad()
    def predict(t):
        return unet(sample, t, text).sample

    base = {t: predict(t) for t in (900, 500, 100)}
    with merging(unet, "ca-tome", ratio=0.5, threshold=threshold, quantum=1) as session:
        if compiled:
            session.compile(backend="eager")
        for t in (900, 500, 100, 900):
            is_base.append(torch.equal(predict(t), base[t]))
            numbers.append({plan.num_groups for plan, _ in session.plans().values()})
            if t == 100:
                session.new_image()
    assert is_base == [number == 256 for number in kept]
    assert all(was or number == {count} for was, number, count in zip(is_base, numbers, kept, strict=True))
