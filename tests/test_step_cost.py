"""What a step costs as a share of the base's: operations as they are counted, times put together as they are described."""

import math
from contextlib import nullcontext
from dataclasses import replace
from functools import cache

import pytest
import torch
from synthetic_run import a_row
from tiny import tiny_flux_transformer, tiny_pipeline, tiny_unet, tiny_wan_transformer
from tiny_families import build as build_tiny
from tiny_families import predict

from mergekit_diff import make, merging
from mergekit_diff.experiments.bench import instruments, overhead, step_share
from mergekit_diff.experiments.bench.config import Bench
from mergekit_diff.experiments.bench.instruments import Operations, Parts
from mergekit_diff.experiments.bench.large import FLUX, UNET, WAN, Large, like
from mergekit_diff.experiments.bench.overhead import Overhead, Way, block_times
from mergekit_diff.experiments.bench.peers import floor, hooked
from mergekit_diff.experiments.bench.sizes import UNETS
from mergekit_diff.experiments.bench.subject import subject
from mergekit_diff.experiments.results.run import Run
from mergekit_diff.experiments.run import cost
from mergekit_diff.experiments.study.loading import build
from mergekit_diff.experiments.study.rehearsal import planning_for
from mergekit_diff.experiments.study.sweep import cells
from mergekit_diff.ready import ReadyPlan
from mergekit_diff.sites import find_sites

SMALL = Bench(size="small", at="step", pixels=128)
"""A U-Net with 16x16 and 8x8 tokens, and with 4x4 in the middle."""
BLOCK = Bench(size="emoji", refresh=[1])
ROLES = (
    ["self_attention"],
    ["key_value"],
    ["cross_attention"],
    ["self_attention", "key_value"],
    ["self_attention", "cross_attention", "feed_forward"],
)


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        channels = {"block_out_channels": (32, 64, 64), "attention_head_dim": 2, "layers_per_block": 1, "norm_num_groups": 8}
        blocks = {
            "down_block_types": ("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
            "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2,
        }
        patch.setitem(UNETS, "small", {"sample_size": 16, "cross_attention_dim": 32, **channels, **blocks})
        yield


step = cache(lambda device: subject(SMALL, device))
"""Building it takes longer than counting."""


def counted(attach, device="meta"):
    """Operations of a step, in whatever session or hooks."""
    counter = Operations(step(device).model)
    with attach(step(device).model), counter.counting():
        step(device).call()
    return counter.total


base = cache(lambda device: counted(nullcontext, device))


@pytest.mark.parametrize("levels", [1, 2, None])
@pytest.mark.parametrize("roles", ROLES, ids="+".join)
def test_the_formula_is_the_count_at_every_ratio(roles, levels):
    few, many = (
        counted(lambda model, kept=kept: hooked(model, roles, levels or 3, floor(1 - kept))) / base("meta")
        for kept in (0.0625, 0.625)
    )
    assert step_share.step_share(roles, levels, [0.0625], SMALL) == pytest.approx(few, rel=1e-9)
    assert step_share.step_share(roles, levels, [0.0625, 0.625, 0.625, 1.0], SMALL) == pytest.approx((few + 2 * many + 1) / 4)
    assert few < many < 1


def test_a_session_of_a_strategy_does_as_many_operations(recorder):
    strategy = recorder[0]()  # half of the tokens, found without an operation that is counted
    options = {"roles": ["self_attention", "feed_forward"], "levels": 2}
    share = counted(lambda model: merging(model, strategy, **options), "cpu") / base("cpu")
    assert step_share.step_share(options["roles"], 2, [0.5], SMALL) == pytest.approx(share, rel=1e-9)


@pytest.mark.parametrize("levels", [1, 2])
def test_self_attention_saves_what_the_textbook_says(levels):
    saved, kept = 0, 0.25
    for site in find_sites(step("meta").model):
        if site.level < levels:
            width, n = site.roles["self_attention"].to_q.in_features, 256 // 4**site.level
            saved += 2 * (4 * 2 * width**2 * n * (1 - kept) + 4 * width * n**2 * (1 - kept**2))  # a batch of 2
    share = step_share.step_share(["self_attention"], levels, [kept], SMALL)
    assert (1 - share) * base("meta") == pytest.approx(saved, rel=1e-9)


def test_a_ratio_that_changes_saves_less_attention_than_its_mean_and_as_much_of_a_linear_layer():
    def at(role, kept):
        return step_share.step_share([role], 1, kept, SMALL)

    assert at("self_attention", [0.25, 0.75]) > at("self_attention", [0.5])
    for role in ("feed_forward", "cross_attention", "key_value"):
        assert at(role, [0.25, 0.75]) == pytest.approx(at(role, [0.5]))


def test_blocks_of_more_levels_do_more_of_the_step_and_never_all():
    one, two, every = (step_share.blocks_share(levels, SMALL) for levels in (1, 2, None))
    assert 0 < one < two < every < 1
    assert [step_share.sites_of_a_grid(levels, SMALL) for levels in (1, 2, None)] == [3, 3, pytest.approx(7 / 3)]


def test_nothing_is_left_on_the_unet_whose_operations_are_counted(count_hooks):
    model = step_share._step(*step_share._shape(SMALL)).model
    before = count_hooks(model)
    step_share.step_share(["key_value"], 1, [0.3], SMALL)
    step_share.blocks_share(2, SMALL)
    assert count_hooks(model) == before


def test_several_modules_are_counted_together():
    a, b = torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)
    together, alone = Operations(a, b), Operations(b)
    for counter in (together, alone):
        with counter.counting():
            torch.nn.functional.linear(b(a(torch.zeros(3, 4))), torch.zeros(5, 2))
    assert (together.total, alone.total) == (2 * 3 * (4 * 8 + 8 * 2), 2 * 3 * 8 * 2)
    assert (together.calls, alone.calls) == (2, 1)


def test_overheads_are_medians_of_ratios_within_a_round():
    slow, plans = [1.0, 2.0, 4.0], [1.0, 2.0, 3.0]  # the machine grows slower
    base = [{"wall": 8 * s, "plan": 0.0, "merge": 0.0, "attention": s, "unmerge": 0.0} for s in slow]
    times = [{"wall": 4 * s, "plan": p * s, "merge": s, "attention": s, "unmerge": s} for s, p in zip(slow, plans, strict=True)]
    assert overhead.overhead(times, base) == Overhead(0.25, 0.25)


def test_equal_ways_are_timed_once_and_the_first_round_is_not_counted(monkeypatch):
    ways = {"a": Way(make("strategy", "retom"), ("self_attention",)), "b": Way(make("strategy", "tomesd"), ("key_value",))}
    ways["again"] = replace(ways["a"])
    seen = []

    def invented(block, variants, rounds, roles):
        seen.append(([one.name for one in variants], rounds, roles))
        return {one.name: {"fresh": [{"wall": float(turn)} for turn in range(rounds)]} for one in variants}

    monkeypatch.setattr(overhead, "take_turns", invented)
    found = block_times(ways, BLOCK, "cpu", "float32", rounds=3)
    assert list(found) == ["base", "a", "b", "again"] and found["a"] is found["again"]
    assert found["b"] == [{"wall": 1.0}, {"wall": 2.0}, {"wall": 3.0}]
    assert seen == [(["base", repr(ways["a"]), repr(ways["b"])], 4, ["key_value", "self_attention"])]
    with_peers = block_times(ways, BLOCK, "cpu", "float32", peers=True)
    assert list(with_peers)[:3] == ["base", "floor", "floor of key_value"] and list(with_peers)[-3:] == ["a", "b", "again"]


@pytest.mark.parametrize("share", [(), ("cfg",), ("grid",)])
def test_a_way_plans_in_the_block_as_its_cell_does(share, recorder, monkeypatch):
    strategy, seen = recorder
    plan, rows = strategy.plan, []
    monkeypatch.setattr(strategy, "plan", lambda self, x, ctx: rows.append(len(x)) or plan(self, x, ctx))
    ways = {"mine": Way(strategy(), ("self_attention", "feed_forward"), share)}
    times = block_times(ways, BLOCK, "cpu", "float32", rounds=1)
    assert rows == [1 if share == ("cfg",) else 2] * 2 and {ctx.progress for ctx in seen} == {0.5}
    found = overhead.overhead(times["mine"], times["base"])
    assert math.isfinite(found.plan) and math.isfinite(found.move)


def test_every_registered_strategy_can_be_timed():
    ways = {name: Way(strategy, strategy.defaults().roles) for name in planning_for(2) for strategy in [make("strategy", name)]}
    assert list(block_times(ways, BLOCK, "cpu", "float32", rounds=1)) == ["base", *planning_for(2)]


@pytest.fixture
def run(tmp_path):
    """Rows of a study of three cells, and the cells."""
    sweep = {"strategy": {"values": [{"name": "tomesd", "ratio": 0.5}, {"name": "retom", "ratio": 0.25}]}}
    study = build({"prompts": ["p"], "sweep": sweep, "merging": {"levels": 2, "roles": ["self_attention"]}})
    planned = cells(study)
    kept = {"tomesd": [0.5] * 4, "retom": [0.75, 0.25, 0.75, 0.25]}
    rows = [a_row(cell="base", role="base", strategy="base")]
    rows += [a_row(cell=cell.name, merging=cell.merging | {"refresh": 2}, kept=kept[cell.name]) for cell in planned]
    return Run(tmp_path, {"study": study.record()}, rows), planned


def test_operations_are_counted_in_two_steps_unless_the_tokens_kept_change(tmp_path):
    ratios = [0.5, {"name": "linear", "start": 0.75, "end": 0.25}]
    study = build({"prompts": ["p"], "steps": 5, "sweep": {"strategy.ratio": {"values": ratios}}, "strategy": {"name": "retom"},
                   "merging": {"refresh": 1}})  # fmt: skip
    planned, pipe, calls = cells(study), tiny_pipeline(), []
    kept = dict(zip((cell.name for cell in planned), ([0.5] * 5, [0.25, 0.375, 0.5, 0.625, 0.75]), strict=True))
    rows = [a_row(cell="base", role="base", strategy="base", kept=[])]
    rows += [a_row(cell=cell.name, merging=cell.merging, kept=kept[cell.name]) for cell in planned]
    pipe.unet.register_forward_pre_hook(lambda *_: calls.append(None))
    _, once, changing = cost.costs(pipe, Run(tmp_path, {"study": study.record()}, rows), planned).values()
    assert len(calls) == 3 * 5 + 2 + 2 + 5
    assert once["flops"] < changing["flops"]


@pytest.mark.parametrize(("share", "sites"), [([], 1), (["grid"], 3)])
def test_shares_are_put_together_as_they_are_described(run, share, sites):
    run, planned = run
    planned = [replace(cell, merging=cell.merging | {"share": share}) for cell in planned]
    large = Large("a small one", SMALL, BLOCK)
    base, merged = {"wall": 1.0}, {"plan": 0.2, "merge": 0.04, "unmerge": 0.06}
    times = {name: [base if name == "base" else merged] for name in ("base", *cost.block_ways(planned))}
    found = cost.shares(run, planned, large, times, "here")
    base, tomesd, retom = (found[name] for name in ("base", "tomesd", "retom"))
    assert (base["share"], base["share_flops"], base["share_overhead"]) == (1, 1, 0)
    assert tomesd["share_overhead"] == pytest.approx(step_share.blocks_share(2, SMALL) * (0.2 / (2 * sites) + 0.1))
    assert tomesd["share_flops"] == step_share.step_share(["self_attention"], 2, [0.5], SMALL) < retom["share_flops"] < 1
    assert all(one["share"] == one["share_flops"] + one["share_overhead"] for one in found.values())
    assert {(one["like"], one["measured_on"]) for one in found.values()} == {("a small one", "here")}


def test_costs_are_those_of_a_large_model_of_the_same_kind():
    models = tiny_unet(), tiny_flux_transformer(), tiny_wan_transformer()
    assert [like(model).name for model in models] == [UNET.name, FLUX.name, WAN.name]


def test_a_span_shares_one_plan_and_moves_its_tokens_once(run):
    run, planned = run
    base, merged = {"wall": 1.0}, {"plan": 0.2, "merge": 0.04, "unmerge": 0.06}
    times = {name: [base if name == "base" else merged] for name in ("base", *cost.block_ways(planned))}
    alone = cost.shares(run, planned, Large("one", SMALL, BLOCK), times, "here")
    spanned = [replace(cell, merging=cell.merging | {"span": 2}) for cell in planned]
    both = cost.shares(run, spanned, Large("one", SMALL, BLOCK), times, "here")
    assert both["tomesd"]["share_overhead"] == pytest.approx(alone["tomesd"]["share_overhead"] / 2)
    assert both["tomesd"]["share_flops"] == alone["tomesd"]["share_flops"]


@pytest.mark.parametrize("role", ["key_value", "self_attention", "block"])
def test_moving_tokens_inside_an_attention_is_timed_as_moving(role, monkeypatch):
    """The stopwatch counts its own looks at the clock, so that a merge takes at least one, wherever it is made."""
    model, inputs = build_tiny("flux")
    seconds = iter(range(10**6))
    monkeypatch.setattr(instruments, "_now", lambda: next(seconds))
    own, spent = dict(vars(ReadyPlan)), {}
    for strategy, roles in (("retom", role), ("nothing", role)):
        with merging(model, strategy, ratio=0.5, roles=roles) if strategy == "retom" else nullcontext():
            parts = Parts(model, [role])
            handles = parts.attach()
            predict(model, inputs)
            for handle in handles:
                handle.remove()
        spent[strategy] = parts.spent["plan"] + parts.spent["merge"] + parts.spent["unmerge"]
    assert spent["retom"] > spent["nothing"]
    assert dict(vars(ReadyPlan)) == own


def test_a_step_cache_makes_only_the_blocks_cheaper_that_it_skips(run):
    run, planned = run
    seconds = {"wall": 1.0, "plan": 0.2, "merge": 0.04, "unmerge": 0.06}
    times = {name: [seconds] for name in ("base", *cost.block_ways(planned))}
    large, name = Large("one", SMALL, BLOCK), planned[0].name
    rows = [replace(row, computed=0.25) if row.cell == name else row for row in run.rows]
    whole = cost.shares(run, planned, large, times, "here")[name]
    cached = cost.shares(Run(run.folder, run.config, rows), planned, large, times, "here")[name]
    around = 1 - step_share.blocks_share(None, SMALL)
    assert 0 < around < whole["share_flops"]
    assert cached["share_flops"] == pytest.approx(around + (whole["share_flops"] - around) / 4)
    assert cached["share_overhead"] == pytest.approx(whole["share_overhead"] / 4)


def test_watching_layers_is_no_cost_of_a_cell(tmp_path):
    study = build({"prompts": ["p"], "steps": 1, "strategy": {"name": "tomesd", "ratio": 0.5}, "sweep": {}})
    (cell,), pipe = cells(study), tiny_pipeline()
    rows = [a_row(cell="base", role="base", strategy="base", kept=[]), a_row(cell=cell.name, merging=cell.merging, kept=[0.5])]
    run = Run(tmp_path, {"study": study.record()}, rows)
    watched = replace(cell, study=replace(study, metrics=["layer"]))
    plain, again = (cost.costs(pipe, run, [each])[cell.name]["flops"] for each in (cell, watched))
    assert plain == again
