"""Whole calls: the pipeline runs from token ids to images, plans last as asked, and what cannot be measured is refused."""

import pytest
import torch
from tiny import tiny_unet

from mergekit_diff import gate as gates
from mergekit_diff.experiments.bench import command, load_bench, peers, variants, whole_call
from mergekit_diff.experiments.bench.config import CALL_STEPS
from mergekit_diff.experiments.bench.filling import Subject
from mergekit_diff.experiments.bench.timing import take_turns
from mergekit_diff.sites import find_sites

WORDS = ["at=call", "pixels=64", "batch=1", "refresh=1", "strategies=[retom]", "rounds=6", "threads=1"]


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
    assert calls == [1] * CALL_STEPS
    assert [image.size for image in images] == [(64, 64)]


@pytest.fixture
def sessions(monkeypatch):
    """Those that a variant opens, as they are opened."""
    opened, merging = [], variants.merging

    def watched(*args, **options):
        opened.append(merging(*args, **options))
        return opened[-1]

    monkeypatch.setattr(variants, "merging", watched)
    return opened


@pytest.mark.parametrize(("refresh", "plans"), [(1, CALL_STEPS), (CALL_STEPS, 1)])
@pytest.mark.parametrize("gate", ["none", "auto"])
def test_a_plan_serves_one_step_or_all(refresh, plans, gate, tiny, sessions, monkeypatch):
    monkeypatch.setattr(gates, "estimate", lambda *_: gates.Estimate(saves=1.0, costs=0.0))
    monkeypatch.setattr(gates, "seconds_of_plan", lambda *_: 0.0)
    _, every = run(tiny, [f"refresh={refresh}", f"gate={gate}"])
    name = "retom" if gate == "none" else "retom gated"
    for _ in range(2):  # a gate decides in the first
        with every[name].attach(tiny.model) as tokens:
            tiny.call()
            before, after = tokens()
        assert after == before / 2
        assert {row["plans"] for row in sessions[-1].report().to_dicts() if row["calls"]} == {plans}


@pytest.mark.skipif(not peers.has_tomesd(), reason="needs the package tomesd")
@pytest.mark.parametrize(("refresh", "plans"), [(1, CALL_STEPS), (CALL_STEPS, 1)])
def test_a_package_keeps_its_plans_as_long(refresh, plans, tiny, monkeypatch):
    made, tomesd = [], peers.tomesd
    monkeypatch.setattr(variants, "tomesd", lambda *args: lambda x: made.append(1) or tomesd(*args)(x))
    _, every = run(tiny, [f"refresh={refresh}"])
    with every[peers.TOMESD].attach(tiny.model):
        tiny.call()
    sites = [site for site in find_sites(tiny.model) if site.level == 0]
    assert len(made) == plans * len(sites)


@pytest.mark.filterwarnings("ignore:no token was merged")
@pytest.mark.parametrize("gate", ["none", "auto"])
@pytest.mark.parametrize("proportional", [True, False, None])
def test_log_sizes_are_those_that_were_asked_for(proportional, gate, tiny, sessions):
    words = ["roles=[key_value]", f"gate={gate}"] + [f"proportional={proportional}"] * (proportional is not None)
    _, every = run(tiny, words)
    with every["retom" if gate == "none" else "retom gated"].attach(tiny.model):
        assert sessions[-1].options.proportional is proportional


def test_a_call_has_one_time_and_it_is_the_whole(tiny):
    bench, every = run(tiny)
    times = take_turns(tiny, list(every.values()), bench.rounds, ["self_attention"])
    assert {name: list(each) for name, each in times.items()} == {name: ["fresh"] for name in every}
    assert command.title(bench).startswith("sd15, one call of 4 steps, 64x64 pixels")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["what=flops"], "at=call: expected size=sd15 and what=time, got size=sd15 and what=flops"),
        (["size=emoji"], "at=call: expected size=sd15 and what=time, got size=emoji and what=time"),
        (["size=flux"], "at=call: expected size=sd15 and what=time, got size=flux"),
        (["refresh=2"], r"at=call: expected refresh=1 or refresh=4, got \[2\]"),
        (["refresh=[1,4]"], r"at=call: expected refresh=1 or refresh=4, got \[1, 4\]"),
    ],
)
def test_what_no_call_has_is_refused(words, message):
    with pytest.raises(ValueError, match=message):
        load_bench([*WORDS, *words])
