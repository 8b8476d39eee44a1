"""The bench, in all that is exact: what is counted, what takes turns, what is fitted, what is refused. Nothing here is timed."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_pipeline, tiny_unet

from mergekit_diff import experiments, make
from mergekit_diff.experiments.bench import (
    Bench,
    block_table,
    command,
    load_bench,
    peers,
    results,
    scaling,
    speed_goals,
    speed_table,
    tables,
    timing,
    variants,
)
from mergekit_diff.experiments.bench.config import check, check_outputs
from mergekit_diff.experiments.bench.large import UNET
from mergekit_diff.experiments.bench.memory import LiveBytes, peak_bytes
from mergekit_diff.experiments.bench.overhead import Way, block_times
from mergekit_diff.experiments.bench.sizes import UNETS, find_size
from mergekit_diff.experiments.bench.subject import Subject, subject
from mergekit_diff.experiments.results.summary import read_csv, write_csv
from mergekit_diff.experiments.results.tables import DASH
from mergekit_diff.experiments.study.rehearsal import planning_for
from mergekit_diff.sites import find_sites


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A measurement of a pipeline folder with 16x16 tokens on its finest level."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return Bench(size=str(folder), rounds=6, strategies=["retom"])


def run_variants(bench, device=None):
    on = subject(bench, device)
    entries = variants.named_strategies(bench)
    every = variants.variants(bench, entries, on.sample.shape[2:])
    return on, entries, {one.name: one for one in every}


@pytest.mark.parametrize("at", ["layer", "block", "step"])
def test_operations_on_the_meta_device_are_those_on_the_cpu(at, small):
    bench = replace(small, at=at, strategies=["retom", "downsample"][: 1 if at == "step" else 2])
    on, _, every = run_variants(bench)
    meta = subject(bench, "meta")
    for name, variant in every.items():
        computed, only_shapes = timing.count(on, variant), timing.count(meta, variant)
        assert computed.flops == only_shapes.flops, name
        assert computed.tokens == only_shapes.tokens, name
        assert only_shapes.peak_bytes is None


def test_every_registered_strategy_is_measured_unless_others_are_named(small):
    assert list(variants.named_strategies(replace(small, strategies=None))) == planning_for(2)


@pytest.mark.parametrize("at", ["layer", "block", "step"])
def test_a_strategy_may_ask_for_the_input_of_the_attention(at, small):
    on, _, every = run_variants(replace(small, at=at, strategies=[{"name": "retom", "tokens": "normalized"}]))
    before, after = timing.count(on, every["retom tokens=normalized"]).tokens
    assert 0 < after < before


def test_known_sizes_have_their_published_number_of_weights():
    millions = {"sd15": 859.5, "sd21": 865.9, "sdxl": 2567.5}
    for name in UNETS:
        unet = subject(Bench(size=name, at="step"), "meta").model
        assert sum(p.numel() for p in unet.parameters()) / 1e6 == pytest.approx(millions[name], abs=0.1)


def test_a_block_is_the_first_of_the_finest_level_and_a_layer_its_attention(monkeypatch):
    channels = {"block_out_channels": (32, 64, 96), "attention_head_dim": (1, 2, 3), "transformer_layers_per_block": 1}
    monkeypatch.setitem(UNETS, "small-xl", {**UNETS["sdxl"], **channels, "sample_size": 32})
    bench = Bench(size="small-xl")
    block, layer, step = (subject(replace(bench, at=at), "meta") for at in ("block", "layer", "step"))
    assert step.sample.shape == (2, 4, 32, 32)
    assert block.sample.shape == layer.sample.shape == (2, 64, 16, 16)  # no attention on the level above
    assert set(find_sites(block.model)[0].roles) == {"self_attention", "cross_attention", "feed_forward"}
    assert set(find_sites(layer.model)[0].roles) == {"self_attention"}


def test_weights_and_inputs_are_the_same_every_time_and_leave_the_global_generator_alone(small):
    before = torch.get_rng_state()
    first, second = subject(small), subject(small)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.sample, second.sample)
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))


def test_a_pipeline_folder_gives_its_shape(small):
    size = find_size(small.size)
    assert (size.factor, size.words, size.pixels) == (2, 16, 32)
    assert subject(replace(small, at="step"), "meta").sample.shape == (2, 4, 16, 16)
    assert subject(replace(small, at="step", pixels=[64, 32]), "meta").sample.shape == (2, 4, 32, 16)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.7])
def test_the_floor_runs_on_m_tokens(ratio, small):
    on, _, every = run_variants(replace(small, ratio=ratio))
    seen = []
    with every["floor"].attach(on.model) as tokens:
        handle = on.model.block.attn1.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
        on.call()
        handle.remove()
    assert seen == [256 - int(256 * ratio)]
    assert tokens() == (256, seen[0])


def test_tokens_are_counted_alike_for_strategies_and_for_what_they_are_held_against(small):
    bench = replace(small, at="step", roles=["self_attention", "feed_forward"], levels=2)
    meta, _, every = run_variants(bench, "meta")
    counted = {timing.count(meta, every[name]).tokens for name in every if name != "base"}
    assert len(counted) == 1


def test_a_whole_unet_is_called_with_latents_as_pipelines_lay_them_out(small):
    assert subject(replace(small, at="step")).sample.is_contiguous()
    block = subject(small).sample
    assert block.is_contiguous(memory_format=torch.channels_last)  # so that the tokens are a view, at no cost


def test_a_strategy_is_held_against_the_floor_of_its_roles(small):
    every = run_variants(replace(small, strategies=["retom", "downsample"]))[2]
    assert every["retom"].floor == "floor"
    assert every[every["downsample"].floor].name == "floor of key_value"
    assert every["base"].floor is None


def test_merging_in_one_role_leaves_the_others_alone(small):
    on, _, every = run_variants(replace(small, roles=["feed_forward"]))
    with every["retom"].attach(on.model):
        lengths = {}
        for name in ("attn1", "ff"):
            module = on.model.block.get_submodule(name)
            module.register_forward_pre_hook(lambda module, args, name=name: lengths.update({name: args[0].shape[1]}))
        on.call()
    assert lengths["attn1"] == 256
    assert lengths["ff"] < 256


@pytest.mark.skipif(not peers.has_tomesd(), reason="the package tomesd is not installed")
@pytest.mark.parametrize("roles", [("self_attention",), ("self_attention", "cross_attention", "feed_forward")])
def test_the_package_in_our_hooks_computes_what_its_own_patch_computes(latents, predict, roles):
    import tomesd

    given = latents(h=16, w=24)
    model, sample = tiny_unet(), given.pop("sample")

    def output():
        with torch.no_grad():
            return model(sample, **given).sample

    tomesd.apply_patch(model, ratio=0.5, use_rand=False, merge_crossattn=len(roles) > 1, merge_mlp=len(roles) > 1)
    patched = output()
    tomesd.remove_patch(model)
    with peers.hooked(model, roles, 1, peers.tomesd(0.5, (16, 24), randomize=False)):
        ours = output()
    assert torch.equal(ours, patched)
    assert not torch.equal(ours, output())


@pytest.mark.skipif(not peers.has_tomesd(), reason="the package tomesd is not installed")
def test_the_package_keeps_its_plan_for_as_many_steps_as_strategies_do(monkeypatch, small):
    chosen = []
    monkeypatch.setattr(variants, "tomesd", lambda *given: lambda x: chosen.append(1) or peers.tomesd(*given)(x))
    on, _, every = run_variants(small)
    counts = {name: timing.count(on, variant) for name, variant in every.items()}
    assert chosen == [1]
    rows = results.rows_of(list(every.values()), small.refresh, counts, None)
    lines = [(row["variant"], row["refresh"]) for row in rows if row["variant"] in (peers.TOMESD, "retom")]
    assert lines == [(name, steps) for name in (peers.TOMESD, "retom") for steps in (1, 20)]


def test_kept_plans_are_compared_with_kept_plans():
    parts = ("wall", "cpu", *timing.PARTS)
    times = {"base": {"fresh": [dict.fromkeys(parts, 8.0)] * 6}}
    for name, fresh, kept in (("floor", 1.0, None), (peers.TOMESD, 4.0, 2.0), ("retom", 3.0, 1.0)):
        times[name] = {"fresh": [dict.fromkeys(parts, fresh)] * 6}
        times[name] |= {} if kept is None else {"kept": [dict.fromkeys(parts, kept)] * 6}
    every = [variants.Variant(name, None, name not in ("base", "floor"), "floor" if name != "base" else None) for name in times]
    counts = {name: timing.Counts({"fresh": 4, "kept": 4}, 8, (2, 1)) for name in times}
    rows = {(row["variant"], row["refresh"]): row for row in results.rows_of(every, [1, 2], counts, times)}
    assert rows["retom", 1]["wall_ratio"][peers.TOMESD][0] == pytest.approx(3 / 4)
    assert rows["retom", 2]["wall_ratio"][peers.TOMESD][0] == pytest.approx(2 / 3)


def test_every_variant_leaves_the_model_as_it_was(count_hooks, small):
    on, _, every = run_variants(replace(small, strategies=None))
    before = count_hooks(on.model)
    for variant in every.values():
        timing.count(on, variant)
        assert count_hooks(on.model) == before


def test_the_second_call_keeps_the_plan_of_the_first(monkeypatch, small):
    retom, made = type(make("strategy", "retom")), []
    plan = retom.plan
    monkeypatch.setattr(retom, "plan", lambda self, x, ctx: made.append(ctx.step) or plan(self, x, ctx))
    on, entries, every = run_variants(small)
    made.clear()
    timing.take_turns(on, [every["retom"]], 3, variants.all_roles(small, entries))
    assert made == [0, 0, 0]


def test_every_round_holds_each_variant_once_beside_others_than_before(monkeypatch, small):
    on, entries, every = run_variants(small)
    order = []
    turn = timing._turn
    monkeypatch.setattr(timing, "_turn", lambda s, v, *rest: order.append(v.name) or turn(s, v, *rest))
    timing.take_turns(on, list(every.values()), 6, variants.all_roles(small, entries))
    rounds = [order[i : i + len(every)] for i in range(0, len(order), len(every))]
    assert all(sorted(one) == sorted(every) for one in rounds)
    before = {name: {one[one.index(name) - 1] for one in rounds if one.index(name)} for name in every}
    assert all(len(names) > 1 for names in before.values())


def test_memory_is_the_same_every_time_and_counts_what_is_alive_at_once(small):
    def call():
        a = torch.zeros(256)  # 1,024 bytes
        b = a + 1
        del a
        return b.view(16, 16) + b.new_zeros(16, 16)

    assert [peak_bytes(call, "cpu") for _ in range(3)] == [3072] * 3
    on, _, every = run_variants(small)
    assert timing.count(on, every["retom"]).peak_bytes == timing.count(on, every["retom"]).peak_bytes > 0


def test_memory_of_views_and_of_what_was_there_before_is_not_counted():
    before = torch.zeros(100)
    with LiveBytes() as counted:
        before.add_(1).view(10, 10).t()
    assert counted.peak == 0


def test_a_plan_of_n_squared_similarities_takes_more_memory_than_one_of_windows(small):
    bench = replace(small, pixels=128, at="layer", strategies=["retom", "tomesd"])
    on, _, every = run_variants(bench)
    assert timing.count(on, every["tomesd"]).peak_bytes > 2 * timing.count(on, every["retom"]).peak_bytes


def test_a_mean_over_steps_holds_one_plan_and_the_rest_kept():
    assert results.amortised(10.0, 1.0, 1) == 10.0
    assert results.amortised(10.0, 1.0, 10) == 1.9


def test_rows_of_invented_seconds_have_the_ratios_that_were_put_in():
    seconds = {"base": 4.0, "floor": 1.0, "retom": 2.0}
    drift = [1.0, 1.2, 1.5, 1.5, 2.0, 3.0]  # the machine grows slower from round to round: paired ratios do not see it
    times = {
        name: {"fresh": [dict.fromkeys(("wall", "cpu", *timing.PARTS), value * slow) for slow in drift]}
        for name, value in seconds.items()
    }
    times["retom"]["kept"] = [dict.fromkeys(("wall", "cpu", *timing.PARTS), slow) for slow in drift]
    every = [variants.Variant("base", None), variants.Variant("floor", None, floor="floor")]
    every.append(variants.Variant("retom", None, keeps=True, floor="floor"))
    counts = {name: timing.Counts({"fresh": 4, "kept": 4}, 8, (2, 1)) for name in seconds}
    rows = results.rows_of(every, [1, 2], counts, times)
    assert [(row["variant"], row["refresh"]) for row in rows] == [("base", None), ("floor", None), ("retom", 1), ("retom", 2)]
    assert [row["speedup"] for row in rows] == pytest.approx([1, 4, 2, 4 / 1.5])
    assert rows[2]["wall_ratio"] == {"base": pytest.approx([0.5] * 3), "floor": pytest.approx([2.0] * 3)}
    assert rows[2]["share"] == pytest.approx([2 / 3] * 3)
    assert rows[3]["plan_ms"] == pytest.approx(1000 * 1.5 * 1.5)


def test_a_gain_of_the_floor_that_may_be_nothing_is_not_shared_out():
    base = np.array([1.0, 1.1, 0.9, 1.0])
    assert results.share_of_gain(base, base, base[::-1]) is None


def test_an_interval_holds_its_median_and_a_constant_ratio_has_none():
    x = np.array([1.0, 2.0, 3.0, 2.5, 1.5, 2.2])
    assert results.paired(2 * x, x) == [2.0, 2.0, 2.0]
    assert results.paired(x, np.ones(6)) == [2.1, 1.0, 3.0]
    assert results.paired(x[:5], np.ones(5)) == [2.0]  # the extremes of five hold the median with 93.75%


def test_an_interval_holds_the_true_median_at_least_as_often_as_it_says():
    rng = np.random.default_rng(0)
    for rounds in (6, 9, 15):
        held = [low <= 1 <= high for _, low, high in (results.paired(rng.lognormal(size=rounds), 1.0) for _ in range(2000))]
        assert np.mean(held) > 0.94


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_its_power(power):
    assert scaling.exponent(scaling.SIZES, [3 * n**power for n in scaling.SIZES]) == pytest.approx(power)
    assert scaling.exponent([1024], [1.0]) is None


def test_grids_of_the_curves_hold_their_tokens_and_are_nearly_square():
    for tokens in scaling.SIZES:
        for axes in (1, 2, 3):
            grid = scaling.grid_of(tokens, axes)
            assert math.prod(grid) == tokens and len(grid) == axes and max(grid) <= 2 * min(grid)


def test_a_curve_ends_where_the_next_plan_would_be_too_large(small):
    assert scaling.expected([10, 40]) == 160
    bench = replace(small, what="scaling", batch=1, limit=0.002, strategies=["retom", "tomesd"])
    found = scaling.scaling(bench, variants.named_strategies(bench), [256, 512, 1024, 2048])
    curves = {curve.name: curve for curve in found}
    assert list(curves["retom"].peak_bytes) == [256, 512, 1024, 2048]
    assert list(curves["tomesd"].peak_bytes)[-1] < 2048
    assert curves["tomesd"].row()["memory_exponent"] > curves["retom"].row()["memory_exponent"]
    memory = tables.scaling_tables([curve.row() for curve in found], bench)[1][1]
    cells = {row[0]: row[1:-1] for row in memory[1:]}
    assert cells["tomesd"].count("> 0.002 GiB") == 1
    assert not {"> 0.002 GiB", DASH} & set(cells["retom"])


def test_a_curve_ends_where_the_next_plan_would_take_too_long():
    row = {"plan_ms": [10.0, 40.0], "peak_bytes": [1, 1]}
    assert scaling.ended_by(row, Bench(patience=0.15)) == "> 0.15 s"
    assert scaling.ended_by(row, Bench(patience=0.17)) is None


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_every_strategy_plans_on_grids_of_its_axes(axes):
    bench = check(Bench(what="scaling", size="emoji", batch=1, axes=axes, rounds=6, threads=1))
    found = scaling.scaling(bench, variants.named_strategies(bench), [1024])
    assert {curve.name for curve in found} - {peers.TOMESD} == set(planning_for(axes))
    assert all(list(curve.peak_bytes) == [1024] and len(curve.seconds[1024]) == 6 for curve in found)


@pytest.mark.parametrize("what", ["time", "flops", "scaling"])
def test_a_measurement_can_be_read_back_from_its_json(what, tmp_path, monkeypatch, capsys, small):
    monkeypatch.setattr(scaling, "SIZES", (64, 128))
    words = [
        f"what={what}",
        "size=emoji",
        "pixels=32",
        "rounds=6",
        "strategies=[retom, {name: tomesd, ratio: 0.25}]",
        "threads=1",
    ]
    bench = load_bench(words)
    assert command.run_bench(bench, tmp_path / "a.json", tmp_path / "a.svg") == 0
    record = json.loads((tmp_path / "a.json").read_text())
    assert Bench(**record["bench"]) == bench
    assert record["versions"]["torch"] == torch.__version__.split("+")[0] or record["versions"]["torch"] == torch.__version__
    assert record["machine"]["threads"] == 1
    assert {"retom", "tomesd ratio=0.25"} <= {row["variant"] for row in record["rows"]}
    if what == "time":
        assert all(len(record["rounds"][row["variant"]]["fresh"]) == 6 for row in record["rows"])
        assert all(math.isfinite(row["wall_ms"]) for row in record["rows"])
    assert "<svg" in (tmp_path / "a.svg").read_text()
    assert "tomesd ratio=0.25" in capsys.readouterr().out


def test_a_table_needs_no_peer(tmp_path, capsys):
    words = ["size=emoji", "pixels=32", "rounds=6", "strategies=[downsample]", "roles=[key_value]", "threads=1"]
    assert command.run_bench(load_bench(words)) == 0
    assert "tomesd package" not in capsys.readouterr().out


BAD = {
    "key": ("rtio=0.5", "ratio"),
    "size": ("size=sd16", "sd15"),
    "folder": ("size=.", "config.json"),
    "level of detail": ("at=blok", "block"),
    "what": ("what=flop", "flops"),
    "ratio": ("ratio=1", "ratio"),
    "not a number": ("ratio=nan", "ratio"),
    "refresh": ("refresh=[0]", "refresh"),
    "refresh in words": ("refresh=often", "refresh"),
    "empty refresh": ("refresh=[]", "refresh"),
    "pixels": ("pixels=100", "multiple of 8"),
    "three sides": ("pixels=[64, 64, 64]", "pixels"),
    "too few rounds": ("rounds=5", "rounds: expected at least 6"),
    "batch": ("batch=0", "batch"),
    "role": ("roles=[self_atention]", "self_attention"),
    "no roles": ("roles=[]", "at least one role"),
    "levels of a block": ("levels=2", "at=step"),
    "device": ("device=tpu", "cpu"),
    "dtype": ("dtype=float8", "float"),
    "limit": ("limit=0", "limit"),
    "patience": ("patience=0", "patience"),
    "axes without curves": ("axes=3", "what=scaling"),
    "four axes": ("axes=4", "axes"),
    "no equals sign": ("rounds", "key=value"),
    "strategy": ("strategies=[retmo]", "retom"),
    "setting": ("strategies=[{name: retom, windw: 3}]", "window"),
    "nameless": ("strategies=[{window: 3}]", "name"),
    "twice": ("strategies=[retom, retom]", "'retom' is listed twice"),
    "none": ("strategies=[]", "strategies"),
    "axes": ("strategies=[{name: retom, window: [2, 2, 2]}]", "axes"),
}


@pytest.mark.parametrize("word, hint", BAD.values(), ids=BAD)
def test_bad_input_is_one_line_that_helps(word, hint):
    with pytest.raises(ValueError, match=re.escape(hint)) as raised:
        variants.named_strategies(load_bench([word]))
    assert "\n" not in str(raised.value)


def test_a_layer_has_no_feed_forward_to_merge():
    with pytest.raises(ValueError, match="at=layer"):
        check(Bench(at="layer", roles=["feed_forward"]))


def test_one_word_stands_for_a_list_of_it():
    bench = load_bench(["refresh=5", "strategies=retom", "roles=self_attention"])
    assert (bench.refresh, bench.strategies, bench.roles) == ([5], ["retom"], ["self_attention"])


def test_a_result_that_cannot_be_written_is_found_before_measuring(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        check_outputs(tmp_path / "no" / "a.json", None)
    with pytest.raises(ValueError, match=r"\.svg"):
        check_outputs(None, tmp_path / "a.svgz")


def test_a_failure_is_one_line_and_exit_1(monkeypatch, capsys, small):
    def fail(*_):
        raise MemoryError("no room\nat all")

    monkeypatch.setattr(command, "subject", fail)
    assert command.run_bench(small) == 1
    assert capsys.readouterr().err == "mergekit-diff: error: MemoryError: no room at all\n"


def test_the_table_of_a_study_is_read_back_as_it_was_written(tmp_path):
    ways = {"mine": Way(make("strategy", "retom"), ("self_attention",))}
    lines = block_table(block_times(ways, UNET.block, "cpu", "float32", peers=True, rounds=2))
    assert {line["variant"] for line in lines} >= {"base", "floor", "mine"}
    write_csv(tmp_path / "speed.csv", lines)
    assert [line["variant"] for line in read_csv(tmp_path / "speed.csv")] == [line["variant"] for line in lines]
    assert set(lines[0]) == {"variant", "block", "layer", "plan", "merge", "ratio"}


def test_a_subject_calls_its_model_by_step():
    seen = []

    class Model(torch.nn.Module):
        def forward(self, sample, timestep, text):
            seen.append((timestep, torch.is_grad_enabled()))

    Subject(Model(), torch.zeros(1), {"text": None}).call(3.0)
    assert seen == [(3.0, False)]


def test_the_speed_table_of_the_docs_follows_from_the_records():
    records = Path(experiments.__path__[0]) / "findings" / "speed"
    speed = (Path(__file__).parent.parent / "docs" / "speed.md").read_text()
    assert speed_table.table(records).strip() in speed


def test_blocks_of_transformers_that_were_recorded_stand_beside_the_goals(tmp_path):
    records = Path(experiments.__path__[0]) / "findings" / "speed"
    shutil.copytree(records, tmp_path / "speed")
    shutil.copy(records / "layer.json", tmp_path / "speed" / "block-some-1024.json")
    added = set(speed_table.table(tmp_path / "speed").splitlines()) - set(speed_table.table(records).splitlines())
    assert any("(record `block-some-1024`)" in line for line in added)
    assert any(line.startswith("| retom-paper |") for line in added)


def test_a_goal_whose_record_lacks_a_kept_plan_is_not_measured():
    seconds = {"fresh": [dict.fromkeys(("wall", "cpu", *timing.PARTS), 1.0)] * 6}
    record = {"bench": {"rounds": 6}, "rows": [], "rounds": {name: seconds for name in ("floor", "retom-paper", peers.TOMESD)}}
    lines = {goal.measure: goal.line(record) for goal in speed_goals.goals() if goal.record == "layer"}
    every, kept = (lines[f"attention layer, plan every {steps}: retom-paper / tomesd package"] for steps in ("step", "20 steps"))
    assert every[1:5] == ["1.000 [1.000, 1.000]", "≤ 0.78", "no", "6"]
    assert kept[1:5] == ["not measured", "≤ 1.00", DASH, DASH]


def test_a_missing_record_is_named_with_what_makes_it(tmp_path):
    with pytest.raises(ValueError, match=r"layer\.json is missing; make it with: mergekit-diff bench"):
        speed_table.table(tmp_path)
