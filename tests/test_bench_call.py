"""Whole calls: the pipeline runs from token ids to images, plans last as asked, and what cannot be measured is refused."""

import pytest
import torch
from tiny import tiny_unet

from mergekit_diff.experiments.bench import command, config, load_bench, subject, variants, whole_call
from mergekit_diff.experiments.bench.filling import Subject
from mergekit_diff.experiments.bench.timing import count, take_turns

WORDS = ["at=call", "pixels=64", "batch=1", "refresh=2", "strategies=[retom]", "rounds=6", "threads=1"]


@pytest.fixture
def tiny(monkeypatch):
    """A pipeline with a tiny U-Net, text encoder and autoencoder."""
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    blocks = {"block_out_channels": (16, 16), "norm_num_groups": 8}
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    monkeypatch.setattr(whole_call, "TEXT_ENCODER", text)
    monkeypatch.setattr(whole_call, "AUTOENCODER", whole_call.AUTOENCODER | blocks | kinds)
    draw = torch.Generator().manual_seed(0)
    step = Subject(tiny_unet(), torch.randn(1, 4, 32, 32, generator=draw), {}, (32, 32))
    return whole_call.whole_call(step, load_bench(WORDS))


def run(tiny, words=()):
    bench = load_bench([*WORDS, *words])
    every = variants.variants(bench, variants.named_strategies(bench), tiny.latents)
    return bench, {each.name: each for each in every}


def test_a_call_goes_from_text_to_images(tiny, monkeypatch):
    images = []
    post = tiny.pipe.image_processor.postprocess
    monkeypatch.setattr(tiny.pipe.image_processor, "postprocess", lambda *args, **kw: images.extend(post(*args, **kw)) or images)
    calls = []
    tiny.model.register_forward_pre_hook(lambda *args: calls.append(len(args[1][0])))
    tiny.call()
    assert calls == [1] * whole_call.STEPS
    assert [image.size for image in images] == [(64, 64)]


def test_plans_last_for_the_refresh_within_a_call(tiny):
    _, every = run(tiny)
    with every["retom"].attach(tiny.model) as tokens:
        tiny.call()
        before, after = tokens()
    assert after == before / 2
    _, every = run(tiny, ["proportional=true", "roles=[key_value]"])
    assert count(tiny, every["retom"]).flops["fresh"] < count(tiny, every["base"]).flops["fresh"]


def test_a_call_has_one_time_and_it_is_the_whole(tiny):
    bench, every = run(tiny)
    times = take_turns(tiny, list(every.values()), bench.rounds, ["self_attention"])
    assert {name: list(each) for name, each in times.items()} == {name: ["fresh"] for name in every}
    assert command.title(bench).startswith("sd15, one call of 4 steps, 64x64 pixels")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["what=flops"], "at=call: expected what=time and one refresh, got what=flops"),
        (["refresh=[1,2]"], r"at=call: expected what=time and one refresh, got what=time and refresh=\[1, 2\]"),
        (["size=flux"], "at: expected block or step for flux, got call"),
    ],
)
def test_what_no_call_has_is_refused(words, message):
    with pytest.raises(ValueError, match=message):
        load_bench([*WORDS, *words])


def test_another_width_of_text_is_refused(tiny):
    assert config.AT[-1] == "call"
    with pytest.raises(ValueError, match="at=call: expected a U-Net that attends to text of 768 channels, as sd15, got 32"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(whole_call, "TEXT_ENCODER", {"hidden_size": 768})
            whole_call.whole_call(Subject(tiny.model, tiny.sample, {}), load_bench(WORDS))
    assert subject.whole_call is whole_call.whole_call
