"""The bench on diffusion transformers, in all that is exact: shapes, tokens, operations. Nothing here is timed."""

import re
from dataclasses import replace

import pytest
import torch

from mergekit_diff.experiments.bench import load_bench, scaling, timing, transformer_subject, variants
from mergekit_diff.experiments.bench.config import Bench, check
from mergekit_diff.experiments.bench.subject import subject
from mergekit_diff.experiments.bench.transformer_sizes import TRANSFORMERS
from mergekit_diff.sites import find_sites

HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}
TINY = {
    "sd3": HEADS | {"joint_attention_dim": 8, "caption_projection_dim": 32, "pooled_projection_dim": 8, "in_channels": 4},
    "flux": HEADS | {"joint_attention_dim": 8, "pooled_projection_dim": 8, "axes_dims_rope": (4, 4, 8), "in_channels": 4},
    "qwen-image": HEADS | {"joint_attention_dim": 8, "axes_dims_rope": (8, 4, 4), "in_channels": 16, "out_channels": 4},
    "wan-1.3b": HEADS | {"text_dim": 8, "freq_dim": 8, "ffn_dim": 32, "in_channels": 4, "out_channels": 4},
    "ltx": HEADS | {"cross_attention_dim": 32, "caption_channels": 8, "in_channels": 4, "out_channels": 4},
    "cogvideox": HEADS | {"text_embed_dim": 8, "time_embed_dim": 8, "in_channels": 4, "out_channels": 4},
}
ROLES = [["self_attention"], ["key_value"], ["block"]]
WEIGHTS = {"sd3": 2028, "flux": 11901, "qwen-image": 20430, "wan-1.3b": 1419, "wan-14b": 14288, "ltx": 1923, "cogvideox": 5571}
"""Millions."""


@pytest.fixture(params=TINY)
def tiny(request, monkeypatch):
    """A measurement of a size whose width is tiny: 32 tokens, of a video in two frames."""
    name = request.param
    size = TRANSFORMERS[name]
    monkeypatch.setitem(TRANSFORMERS, name, replace(size, config=size.config | TINY[name], words=5))
    pixels = [4 * size.factor, (4 if size.frames else 8) * size.factor]
    frames = size.frames and 1 + size.per_frame
    options = {"batch": 1, "roles": ROLES, "strategies": ["retom"], "refresh": [1]}
    return Bench(size=name, pixels=pixels, frames=frames, **options)


def all_variants(bench, device=None):
    on = subject(bench, device)
    return on, variants.variants(bench, variants.named_strategies(bench), on.latents)


@pytest.mark.parametrize("name", WEIGHTS)
def test_known_sizes_have_their_published_number_of_weights(name):
    model = subject(Bench(size=name, at="step"), "meta").model
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(WEIGHTS[name], abs=1)


def test_every_role_computes_on_the_cpu_what_is_counted_on_the_meta_device_and_none_does_less_than_its_floor(tiny):
    on, every = all_variants(tiny)
    meta = subject(tiny, "meta")
    counts = {variant.name: timing.count(meta, variant) for variant in every}
    for variant in every:
        own, floor = counts[variant.name], counts[variant.floor or "base"]
        computed = timing.count(on, variant)
        assert (computed.flops, computed.tokens) == (own.flops, own.tokens), variant.name
        assert own.tokens == floor.tokens
        assert floor.flops["fresh"] <= own.flops["fresh"], variant.name
        assert variant.floor is None or own.flops["fresh"] < counts["base"].flops["fresh"], variant.name
    assert counts["floor of block"].tokens[0] == 32 * len(find_sites(meta.model))
    assert counts["floor of block"].flops["fresh"] == min(each.flops["fresh"] for each in counts.values())


def test_blocks_that_share_merged_tokens_compute_less_than_blocks_that_merge_on_their_own(tiny):
    bench = check(replace(tiny, roles=["block"], blocks=3, spans=[1, 3]))
    on, every = all_variants(bench, "meta")
    assert len(find_sites(on.model)) == 3 * len(TRANSFORMERS[tiny.size].kinds)
    counts = {variant.name: timing.count(on, variant) for variant in every}
    assert list(counts) == ["base", "floor", "retom", "retom span=3"]
    assert counts["retom span=3"].tokens == counts["retom"].tokens == counts["floor"].tokens
    assert counts["floor"].flops["fresh"] <= counts["retom span=3"].flops["fresh"] < counts["retom"].flops["fresh"]


WRONG_SPANS = {
    "blocks of a U-Net": (["blocks=2"], "transformers"),
    "more than there are blocks": (["size=sd3", "roles=[block]", "spans=[1,2]"], "from 1 to 1"),
    "another role": (["size=sd3", "blocks=2", "spans=[2]"], "roles=block"),
    "none": (["spans=[]"], "spans"),
}


@pytest.mark.parametrize(("words", "hint"), WRONG_SPANS.values(), ids=WRONG_SPANS)
def test_spans_that_cannot_be_are_refused_in_one_line(words, hint):
    with pytest.raises(ValueError, match=hint) as raised:
        load_bench(words)
    assert "\n" not in str(raised.value)


def test_a_block_is_called_as_its_model_calls_it_and_computes_finite_numbers(tiny):
    on, every = all_variants(replace(tiny, dtype="bfloat16"))
    assert {parameter.dtype for parameter in on.model.parameters()} == {torch.bfloat16}
    outputs = {}
    for variant in every:
        with torch.no_grad(), variant.attach(on.model):
            outputs[variant.name] = on.model(on.sample, timestep=on.time(500.0), **on.others)[0]
    assert all(output.isfinite().all() for output in outputs.values())
    assert all(output.shape == outputs["base"].shape for output in outputs.values())
    merged = [name for name in outputs if name != "base"]
    assert not any(torch.equal(outputs[name], outputs["base"]) for name in merged)


def test_weights_and_inputs_are_the_same_every_time_and_leave_the_global_generator_alone(tiny):
    before = torch.get_rng_state()
    first, second = subject(tiny), subject(tiny)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.sample, second.sample)
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))


def test_flux_has_one_block_of_each_kind_or_of_one():
    found = {kind: [site.name for site in find_sites(subject(Bench(size="flux", kind=kind), "meta").model)] for kind in KINDS}
    double, single = "transformer_blocks.0", "single_transformer_blocks.0"
    assert found == {None: [double, single], "double": [double], "single": [single]}


KINDS = (None, "double", "single")


@pytest.mark.parametrize(("words", "tokens"), [
    (["size=wan-1.3b"], 32760),
    (["size=wan-14b", "pixels=[720,1280]"], 75600),
    (["size=cogvideox"], 28350),
    (["size=ltx"], 4290),
    (["size=flux", "pixels=2048", "kind=single"], 16384),
    (["size=sd3"], 4096),
    (["size=qwen-image"], 4096),
])  # fmt: skip
def test_grids_are_those_of_the_published_models(words, tokens):
    bench = load_bench([*words, "strategies=retom", "roles=block", "batch=1"])
    meta, every = all_variants(bench, "meta")
    floor = next(variant for variant in every if variant.name == "floor")
    assert timing.count(meta, floor).tokens == (tokens, tokens // 2)


def test_merging_half_of_flux_in_its_blocks_saves_about_half_of_them_and_in_attention_a_quarter():
    counted = {}
    for kind in KINDS[1:]:
        bench = load_bench(["size=flux", f"kind={kind}", "batch=1", "roles=[[self_attention],[block]]", "strategies=retom"])
        meta, every = all_variants(bench, "meta")
        counts = {variant.name: timing.count(meta, variant).flops["fresh"] for variant in every if variant.floor == variant.name}
        base = timing.count(meta, every[0]).flops["fresh"]
        counted[kind] = {name: round(1 - flops / base, 3) for name, flops in counts.items()}
    assert counted["double"] == pytest.approx({"floor": 0.26, "floor of block": 0.49}, abs=0.015)
    assert counted["single"] == pytest.approx({"floor": 0.23, "floor of block": 0.49}, abs=0.015)


def test_plans_of_a_transformer_are_measured_at_its_width():
    assert {name: scaling._width(Bench(size=name)) for name in ("flux", "wan-1.3b", "sd15")} == WIDTHS


WIDTHS = {"flux": 3072, "wan-1.3b": 1536, "sd15": 320}


def test_a_package_that_knows_no_transformers_is_not_measured_on_one(tiny):
    assert variants.TOMESD not in {variant.name for variant in all_variants(tiny, "meta")[1]}


def test_weights_that_do_not_fit_are_refused_before_they_are_made(monkeypatch):
    monkeypatch.setattr(transformer_subject.os, "sysconf", lambda name: 2**15)
    with pytest.raises(MemoryError, match=r"expected room for 22\.2 GiB of weights, got 1\.0"):
        subject(Bench(size="flux", at="step", dtype="bfloat16"), "cpu")


BAD = {
    "layer": (["size=flux", "at=layer"], "expected block or step for flux"),
    "kind": (["size=flux", "kind=triple"], "double or single"),
    "kind of a step": (["size=flux", "kind=double", "at=step"], "kind"),
    "kind of a unet": (["kind=double"], "expected None for sd15"),
    "frames of an image": (["size=flux", "frames=9"], "makes images"),
    "frames": (["size=wan-1.3b", "frames=80"], "multiple of 4"),
    "frames of ltx": (["size=ltx", "frames=85"], "multiple of 8"),
    "pixels": (["size=ltx", "pixels=720"], "multiple of 32"),
    "mixed roles": (["roles=[block,[key_value]]"], "lists of roles"),
    "role in a list": (["roles=[[blok]]"], "block"),
    "block beside others": (["roles=[[block,feed_forward]]"], "block"),
}


@pytest.mark.parametrize("words, hint", BAD.values(), ids=BAD)
def test_bad_input_is_one_line_that_helps(words, hint):
    with pytest.raises(ValueError, match=re.escape(hint)) as raised:
        check(load_bench(words))
    assert "\n" not in str(raised.value)
