"""Laws of every registered strategy, on many grids, dtypes and ratios."""

import dataclasses
import math

import pytest
import torch

from mergekit_diff import MergePlan, MergeStrategy, SoftPlan, make, names
from mergekit_diff.components import Defaults
from mergekit_diff.recording import Prediction
from mergekit_diff.reductions import Mlerp, Pick
from mergekit_diff.signals import toy_signals

GRIDS = [(8, 8), (6, 10), (7, 9), (1, 1), (2, 1), (3, 3), (1, 7), (17,), (5,), (3, 4, 5), (5, 2, 3), (1, 3, 3)]
RATIOS = (0.0, 0.25, 0.5, 0.75, 0.95)
LOOSE = {torch.float64: 1e-6, torch.bfloat16: 5e-2, torch.float16: 1e-2}
STRATEGIES = names("strategy")
SETTINGS = [
    {"name": "retom", "representative": "lowest"},
    {"name": "retom", "representative": "upper-half", "rank": "grid"},
    {"name": "retom", "representative": "random", "draw": "still", "tokens": "normalized"},
    {"name": "retom", "rank": "grid", "keep_representatives": 5},
    {"name": "random-dest", "rank": "grid", "draw": "still", "keep_representatives": 5},
    {"name": "dynamic-ratio", "inner": {"name": "retom", "tokens": "normalized", "keep_representatives": 5}},
    {"name": "sdtm", "phase": "detail"},
    {"name": "imtome", "phase": "merging"},
    {"name": "toma", "window": 3, "sharpness": 5.0},
]
CASES = [*STRATEGIES, *SETTINGS]
"""Every strategy with its defaults, and settings that change what some of them do."""


def strategy_of(case, **settings) -> MergeStrategy:
    return make("strategy", {**(case if isinstance(case, dict) else {"name": case}), **settings})


def plan_of(case, x, ctx, **settings) -> MergePlan | SoftPlan:
    """The plan for ``x``; by what a strategy asks for, one that comes after a plan for other tokens.

    On a grid of more axes, of one token each, if it takes no other; on a line of the same tokens if it takes nothing else.
    """
    strategy = strategy_of(case, **settings)
    if len(ctx.grid) > max(strategy.axes):
        ctx = dataclasses.replace(ctx, grid=(x.shape[1],))
    while len(ctx.grid) not in strategy.axes:
        ctx = dataclasses.replace(ctx, grid=(*ctx.grid, 1))
    signals = toy_signals(strategy, x)
    if "last_plan" in strategy.asks():
        before = x.roll(1, -1).mul(-1)
        last = strategy.plan(before, dataclasses.replace(ctx, signals=toy_signals(strategy, before)))
        signals["last_plan"] = last
    if "prediction" in strategy.asks():
        signals["prediction"] = Prediction(x.float().square().mean(-1), x.float().abs().amax(-1))
    if "age" in strategy.asks():
        signals["age"] = (4 * x.float().abs().mean(-1)).round()
    plan = strategy.plan(x, dataclasses.replace(ctx, signals=signals))
    assert isinstance(plan, MergePlan | SoftPlan), f"{strategy.name} left {ctx.grid} alone"
    return plan


def assert_laws(plan, x, tolerance):
    """What the contract says of every plan for the tokens ``x``."""
    if isinstance(plan, SoftPlan):
        assert_soft_laws(plan, x, tolerance)
        return
    batch, n, _ = x.shape
    m, rows = plan.rep.shape[1], len(plan.assign)
    assert rows in (1, batch) and plan.assign.shape == (rows, n) and plan.rep.shape == (rows, m)
    assert plan.assign.dtype == plan.rep.dtype == torch.int64
    assert 1 <= m <= n
    for row in plan.assign:
        assert torch.equal(row.unique(), torch.arange(m))
    assert torch.equal(plan.assign.gather(1, plan.rep), torch.arange(m).expand(rows, m))
    assert torch.equal(plan.rep, plan.rep.clamp(0, n - 1))
    y = torch.randn(batch, m, x.shape[2], generator=torch.Generator().manual_seed(1)).to(x.dtype)
    torch.testing.assert_close(plan.merge(plan.unmerge(y)), y, atol=tolerance, rtol=tolerance)
    merged = plan.merge(x)
    assert merged.shape == (batch, m, x.shape[2]) and merged.dtype == x.dtype and plan.unmerge(merged).shape == x.shape
    if plan.reduction == Pick():
        assert torch.equal(merged, plan.select(x))
    elif plan.reduction == Mlerp():
        assert merged.isfinite().all()
    elif plan.weight is None:
        sizes = torch.stack([row.bincount(minlength=m) for row in plan.assign])[..., None]
        kept = (merged.double() * sizes).sum(1)
        torch.testing.assert_close(kept, x.double().sum(1), atol=tolerance * n, rtol=tolerance)
    else:
        total = torch.zeros(rows, m).scatter_add_(1, plan.assign, plan.weight.float())
        torch.testing.assert_close(total, torch.ones(rows, m))
        assert plan.weight.min() >= 0


def assert_soft_laws(plan, x, tolerance):
    """Rows of both matrices sum to 1, so that a grid of equal windows comes back; every kept token is one of its window."""
    (batch, n, channels), m = x.shape, plan.num_groups
    assert plan.num_tokens == n and 1 <= m <= n and plan.rep.shape == (batch, m)
    for matrices in (plan.down, plan.up):
        for matrix in matrices:
            assert matrix.min() >= 0
            torch.testing.assert_close(matrix.sum(-1), torch.ones_like(matrix[..., 0]), atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(plan.sizes.sum(1), torch.full((batch,), float(n)), atol=tolerance * n, rtol=tolerance)
    assert plan.sizes.min() > 0 and all(len(row.unique()) == m for row in plan.rep)
    windows = [(torch.arange(len(g)) / 64 + i)[:, None].expand_as(g).flatten() for i, g in enumerate(plan.windows.groups)]
    flat = torch.cat(windows)[plan.windows.back][None, :, None].expand(batch, -1, channels).to(x.dtype)
    merged = plan.merge(flat)
    assert merged.shape == (batch, m, channels) and merged.dtype == x.dtype
    torch.testing.assert_close(plan.unmerge(merged), flat, atol=4 * tolerance, rtol=4 * tolerance)
    torch.testing.assert_close(plan.select(flat), merged, atol=4 * tolerance, rtol=4 * tolerance)
    assert plan.assign.shape == (batch, n) and 0 <= plan.assign.min() and plan.assign.max() < m


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", CASES, ids=str)
def test_plan_is_a_partition_that_merge_and_unmerge_respect(name, grid, ratio, context, tokens):
    n = math.prod(grid)
    for batch in (1, 3):
        x = tokens(batch, n)
        for stage in ("down", "mid", None):
            plan = plan_of(name, x, context(grid, stage=stage), ratio=ratio)
            assert_laws(plan, x, 1e-6)
            if ratio == 0:
                assert plan.num_groups == n


@pytest.mark.parametrize("dtype", LOOSE, ids=str)
@pytest.mark.parametrize("grid", [(8, 8), (7, 9), (3, 4, 5)], ids=str)
@pytest.mark.parametrize("name", CASES, ids=str)
def test_laws_hold_in_every_dtype(name, grid, dtype, context, tokens):
    for batch in (1, 3):
        x = tokens(batch, math.prod(grid), dtype=dtype)
        assert_laws(plan_of(name, x, context(grid), ratio=0.5), x, LOOSE[dtype])


@pytest.mark.parametrize("metric", names("metric"))
@pytest.mark.parametrize("name", CASES, ids=str)
def test_laws_hold_under_every_metric(name, metric, context, tokens):
    x = tokens(2, 63)
    settings = {f.name for f in dataclasses.fields(type(strategy_of(name)))}
    if "metric" in settings:
        assert_laws(plan_of(name, x, context((7, 9)), ratio=0.5, metric=metric), x, 1e-6)
    else:
        assert_laws(plan_of(name, x, context((7, 9)), ratio=0.5), x, 1e-6)


@pytest.mark.parametrize("window", names("window"))
@pytest.mark.parametrize("name", CASES, ids=str)
def test_laws_hold_under_every_window(name, window, context, tokens):
    fields = {f.name: f.default for f in dataclasses.fields(type(strategy_of(name)))}
    takes = [f for f, default in fields.items() if getattr(default, "kind", None) == "window"]
    for grid in ((8, 8), (7, 9), (2, 3), (1, 5)):
        x = tokens(2, math.prod(grid))
        for depth, level in ((0, 0), (1, 2)):
            ctx = context(grid, depth=depth, level=level, progress=0.75)
            assert_laws(plan_of(name, x, ctx, ratio=0.5, **dict.fromkeys(takes, window)), x, 1e-6)


@pytest.mark.parametrize("name", CASES, ids=str)
def test_laws_hold_where_all_tokens_are_alike(name, context):
    for x in (torch.zeros(2, 64, 8), torch.ones(2, 64, 8)):
        plan = plan_of(name, x, context((8, 8)), ratio=0.5)
        assert_laws(plan, x, 1e-6)
        torch.testing.assert_close(plan.merge(x), x[:, : plan.num_groups])


@pytest.mark.parametrize("ratio", (0.25, 0.5, 0.75))
@pytest.mark.parametrize("grid", [(8, 8), (16, 12), (8, 8, 8)], ids=str)
@pytest.mark.parametrize("name", CASES, ids=str)
def test_ratio_that_fits_the_grid_is_granted(name, grid, ratio, context, tokens):
    x = tokens(2, math.prod(grid))
    plan = plan_of(name, x, context(grid), ratio=ratio)
    assert abs(plan.granted - min(ratio, strategy_of(name).max_ratio)) < 0.1


@pytest.mark.parametrize("grid", [(7, 9), (16, 16), (10, 13)], ids=str)
@pytest.mark.parametrize("name", CASES, ids=str)
def test_more_ratio_never_merges_less(name, grid, context, tokens):
    x = tokens(2, math.prod(grid))
    kept = [plan_of(name, x, context(grid), ratio=r).num_groups for r in RATIOS]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] > kept[2]


@pytest.mark.parametrize("name", CASES, ids=str)
def test_same_tokens_and_context_give_the_same_plan(name, context, tokens):
    x, ctx = tokens(2, 64), context((8, 8))
    state = torch.get_rng_state()
    first, second = (plan_of(name, x, ctx, ratio=0.5) for _ in range(2))
    assert torch.equal(first.assign, second.assign) and torch.equal(first.rep, second.rep)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", CASES, ids=str)
def test_a_row_gets_the_plan_that_it_would_get_alone(name, context, tokens):
    if strategy_of(name).batch_shared:
        pytest.skip("it says that rows share their number of tokens")
    x, ctx = tokens(3, 64), context((8, 8))
    together, alone = plan_of(name, x, ctx, ratio=0.5), plan_of(name, x[1:2], ctx, ratio=0.5)
    y = together.merge(x)
    torch.testing.assert_close(together.unmerge(y)[1:2], alone.unmerge(alone.merge(x[1:2])), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CASES, ids=str)
def test_plan_leaves_its_tokens_as_they_were(name, context, tokens):
    x = tokens(2, 64)
    before = x.clone()
    plan_of(name, x, context((8, 8)), ratio=0.5).merge(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategy_is_a_frozen_value_with_a_ratio_and_a_source(name):
    strategy = make("strategy", name)
    assert isinstance(strategy, MergeStrategy) and strategy.name == name
    assert strategy == make("strategy", name) and hash(strategy) == hash(make("strategy", name))
    assert "ratio" in {f.name for f in dataclasses.fields(strategy)}
    assert strategy.__doc__ and "arXiv" in type(strategy).__doc__
    with pytest.raises(dataclasses.FrozenInstanceError):
        strategy.ratio = 0.5
    assert set(vars(strategy)) == {f.name for f in dataclasses.fields(strategy)}


@pytest.mark.parametrize("name", STRATEGIES)
def test_ratio_schedule_is_followed(name, context, tokens):
    ratio, x = {"name": "step", "values": [0.75, 0.0], "at": [0.5]}, tokens(1, 64)
    assert plan_of(name, x, context((8, 8), progress=0.2), ratio=ratio).num_groups < 64
    assert plan_of(name, x, context((8, 8), progress=0.7), ratio=ratio).num_groups == 64


@pytest.mark.parametrize("name", ("random-dest", "tomesd"))
def test_other_noise_gives_other_random_destinations(name, context, tokens):
    x = tokens(2, 64)
    plans = [plan_of(name, x, context((8, 8), noise=torch.rand(64, generator=torch.Generator().manual_seed(s)))) for s in (1, 2)]
    assert not torch.equal(plans[0].assign, plans[1].assign)


@pytest.mark.parametrize("name", ("random-dest", {"name": "retom", "representative": "upper-half"}), ids=str)
def test_still_choices_follow_from_still_noise_alone(name, context, tokens):
    x, draws = tokens(2, 64), [torch.rand(64, generator=torch.Generator().manual_seed(s)) for s in (1, 2)]
    for draw, moves, stays in (("anew", "noise", "still"), ("still", "still", "noise")):
        plans = {w: [plan_of(name, x, context((8, 8), **{w: d}), draw=draw).assign for d in draws] for w in (moves, stays)}
        assert not torch.equal(*plans[moves]) and torch.equal(*plans[stays])


@pytest.mark.parametrize("name", ("retom-paper", "downsample", {"name": "retom", "representative": "lowest"}), ids=str)
def test_noise_is_nothing_to_a_strategy_without_chance(name, context, tokens):
    x = tokens(2, 64)
    plans = [plan_of(name, x, context((8, 8), noise=torch.rand(64, generator=torch.Generator().manual_seed(s)))) for s in (1, 2)]
    assert torch.equal(plans[0].assign, plans[1].assign)


def test_defaults_of_the_session_are_those_of_the_contract():
    found = {name: make("strategy", name).defaults() for name in STRATEGIES}
    assert found["retom"] == Defaults(("self_attention",), refresh=1, levels=None, share=("cfg",), proportional=None)
    assert found["retom-paper"] == Defaults(("self_attention",), refresh=20, levels=None, share=(), proportional=None)
    assert found["tomesd"] == Defaults(("self_attention",), refresh=1, levels=1, share=(), proportional=None)
    assert found["downsample"].roles == ("key_value",)
    assert found["local-match"] == Defaults(("key_value",), refresh=1, levels=2, share=(), proportional=True)
    for inner in ("retom", "tomesd", "downsample", "random-dest"):
        wrapper = make("strategy", {"name": "dynamic-ratio", "inner": inner})
        assert wrapper.defaults() == found[inner]


def test_plan_made_in_inference_mode_lets_gradients_through_later(context, tokens):
    for name in CASES:
        with torch.inference_mode():
            plan_of(name, tokens(1, 35), context((5, 7)), ratio=0.5).merge(tokens(1, 35))
        x = tokens(1, 35).requires_grad_()
        plan_of(name, x.detach(), context((5, 7)), ratio=0.5).merge(x).square().sum().backward()
        assert x.grad.abs().sum() > 0
