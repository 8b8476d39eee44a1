"""A soft plan against dense matrices, ToMA against loops from its formula, and both inside models."""

import dataclasses
import math

import pytest
import torch
from test_reference import GRIDS, cosine, sides, windows_of
from tiny_families import build, predict

from mergekit_diff import LayerContext, MergePlan, MergeStrategy, SoftPlan, make, merging
from mergekit_diff.experiments.bench.memory import peak_bytes
from mergekit_diff.rows import placed
from mergekit_diff.windows import Windows


def toma(grid, context, x, **settings):
    return make("strategy", {"name": "toma", **settings}).plan(x, context(grid))


def slow_toma(x, tiles, ratio, sharpness):
    """For every destination its merged token, and a function that unmerges what is computed for the destinations."""
    merged, shares = {}, {}
    for tile in tiles:
        kept = len(tile) - min(round(ratio * len(tile)), len(tile) - 1)
        near = {i: -math.inf for i in tile}
        gain = {j: sum(cosine(x[i], x[j]) for i in tile) for j in tile}
        chosen = []
        for _ in range(kept):
            best = max((j for j in tile if j not in chosen), key=lambda j: gain[j] - 1e-5 * tile.index(j))
            chosen.append(best)
            near = {i: max(near[i], cosine(x[i], x[best])) for i in tile}
            gain = {j: sum(max(cosine(x[i], x[j]) - near[i], 0.0) for i in tile) for j in tile}
        for i in tile:
            powers = {d: sharpness * cosine(x[i], x[d]) for d in chosen}
            most = max(powers.values())
            total = sum(math.exp(p - most) for p in powers.values())
            shares[i] = {d: math.exp(p - most) / total for d, p in powers.items()}
        for d in chosen:
            merged[d] = sum(shares[i][d] * x[i] for i in tile) / sum(shares[i][d] for i in tile)
    return merged, lambda y: torch.stack([sum(share * y[d] for d, share in shares[i].items()) for i in range(len(x))])


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32), ids=str)
@pytest.mark.parametrize("sharpness", (3.0, 1000.0))
@pytest.mark.parametrize("ratio", (0.25, 0.5, 0.95))
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_toma_spreads_destinations_and_merges_softly_as_its_formula(grid, ratio, sharpness, dtype, context, tokens):
    x = tokens(2, math.prod(grid), dtype=dtype)
    plan = toma(grid, context, x, ratio=ratio, sharpness=sharpness)
    merged = plan.merge(x)
    for row in range(2):
        exact = x[row].double()
        expected, unmerge = slow_toma(exact, windows_of(grid, sides(grid, 4)), ratio, sharpness)
        assert plan.num_groups == len(expected) and set(plan.rep[row].tolist()) == set(expected)
        tolerance = 1e-9 if dtype == torch.float64 else 1e-5 if sharpness < 10 else 1e-3  # rounding of cosines, 1,000 times
        kept = torch.stack([expected[d] for d in plan.rep[row].tolist()])
        torch.testing.assert_close(merged[row].double(), kept, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(plan.unmerge(merged)[row].double(), unmerge(expected), atol=tolerance, rtol=tolerance)


def dense(plan):
    """The (B, M, N) and (B, N, M) matrices that a soft plan never makes."""
    eye = torch.eye(plan.num_tokens)[None].expand(len(plan.rep), -1, -1)
    return plan.merge(eye), plan.unmerge(torch.eye(plan.num_groups)[None].expand(len(plan.rep), -1, -1))


def test_soft_plan_is_two_matrices_of_blocks(context, tokens):
    plan = toma((7, 9), context, tokens(2, 63), sharpness=5.0)
    assert [tuple(g.shape) for g in plan.windows.groups] == [(2, 16), (1, 4), (2, 12), (1, 3)]
    down, up = dense(plan)
    x, y = tokens(2, 63, seed=1), tokens(2, plan.num_groups, seed=2)
    torch.testing.assert_close(plan.merge(x), down @ x, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(plan.unmerge(y), up @ y, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(plan.sizes, up.sum(1), atol=1e-5, rtol=1e-5)
    assert torch.equal(plan.assign, up.argmax(-1))
    home = torch.empty(63, dtype=torch.long)
    for number, window in enumerate(w for group in plan.windows.groups for w in group):
        home[window] = number
    for row in range(2):
        assert torch.equal(down[row] > 0, (home[plan.rep[row]][:, None] == home) & (down[row] > 0))
    assert torch.equal(plan.select(x), torch.stack([x[row, plan.rep[row]] for row in range(2)]))
    assert plan.granted == 1 - plan.num_groups / 63


def test_sharp_weights_are_those_of_the_nearest_partition(context, tokens):
    x = tokens(2, 64, dtype=torch.float64)
    plan = toma((8, 8), context, x, sharpness=1e7)
    hard = MergePlan(plan.assign, plan.rep)
    torch.testing.assert_close(plan.merge(x), hard.merge(x), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(plan.sizes, hard.sizes, atol=1e-4, rtol=1e-4)


def test_soft_plan_of_one_row_serves_every_batch_and_repeats_as_it_is(context, tokens):
    one, two = toma((8, 8), context, tokens(1, 64)), toma((8, 8), context, tokens(2, 64))
    assert one.repeat(3) is one and two.repeat(1) is two
    x = tokens(2, 64, seed=1)
    torch.testing.assert_close(one.merge(x)[1:], one.merge(x[1:]), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(two.repeat(2).merge(torch.cat([x, x])), torch.cat([two.merge(x)] * 2), atol=1e-6, rtol=1e-6)
    with pytest.raises(ValueError, match=r"expected tokens \(2, 64, C\)"):
        two.merge(x[:1])
    with pytest.raises(ValueError, match=r"expected tokens \(B, 32, C\)"):
        one.unmerge(x)


def test_soft_plan_whose_shapes_do_not_fit_is_refused():
    windows = Windows((torch.arange(4).view(2, 2),), torch.arange(4))
    down, up = torch.ones(1, 2, 1, 2), torch.ones(1, 2, 2, 1)
    SoftPlan((down,), (up,), torch.zeros(1, 2, dtype=torch.long), windows)
    for wrong in ((down, down, 2), (up, up, 2), (down, up, 3)):
        with pytest.raises(ValueError, match=r"expected down \(B, T, m, n\)"):
            SoftPlan((wrong[0],), (wrong[1],), torch.zeros(1, wrong[2], dtype=torch.long), windows)


def test_memory_of_a_soft_plan_is_that_of_its_tiles(context):
    grid, x = (128, 128), torch.randn(1, 128 * 128, 320)

    def most(**spec):
        strategy, kept = make("strategy", spec), []
        strategy.plan(x, context(grid))  # the windows are made once
        return peak_bytes(lambda: kept.append(strategy.plan(x, context(grid))), "cpu")

    tiles, smallest = most(name="toma", window=16), min(most(name="retom"), most(name="retom", window=16))
    assert tiles <= 4 * smallest and tiles < 16384 * 8192 * 4 / 10


def test_groups_at_their_representatives_are_what_select_finds(context, tokens):
    for plan in (toma((7, 9), context, tokens(2, 63)), make("strategy", "retom").plan(tokens(2, 63), context((7, 9)))):
        y = tokens(2, plan.num_groups, seed=1)
        assert torch.equal(plan.select(placed(y, plan)), y)


@dataclasses.dataclass(frozen=True)
class InOtherOrder(MergeStrategy):
    """ToMA with the kept tokens of each window counted backwards."""

    inner: MergeStrategy = make("strategy", {"name": "toma", "sharpness": 5.0})
    backwards: bool = True

    def plan(self, x: torch.Tensor, ctx: LayerContext) -> SoftPlan:
        plan = self.inner.plan(x, ctx)
        if not self.backwards:
            return plan
        counts = [(down.shape[1], down.shape[2]) for down in plan.down]
        reps = plan.rep.split([t * m for t, m in counts], 1)
        rep = torch.cat([r.unflatten(1, shape).flip(2).flatten(1) for r, shape in zip(reps, counts, strict=True)], 1)
        return SoftPlan(tuple(d.flip(2) for d in plan.down), tuple(u.flip(3) for u in plan.up), rep, plan.windows)


@pytest.mark.parametrize("proportional", (False, True))
@pytest.mark.parametrize(
    ("roles", "rotary"),
    [
        ("self_attention", None), ("feed_forward", None), ("block", None), ("key_value", "values"), ("key_value", "pick"),
        ("key_value", "mean"), ("key_value", "before"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("model", ("flux", "wan", "sd3"))
def test_the_order_of_kept_tokens_changes_no_output(model, roles, rotary, proportional):
    transformer, inputs = build(model)
    outputs, base = [], predict(transformer, inputs)
    for backwards in (False, True):
        with merging(transformer, InOtherOrder(backwards=backwards), roles=roles, rotary=rotary, proportional=proportional) as s:
            outputs.append(predict(transformer, inputs))
    assert s.report().merged and not torch.equal(outputs[0], base)
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)
    assert torch.equal(predict(transformer, inputs), base)


def test_halves_of_guidance_share_a_soft_plan(unet, latents, predict):
    with merging(unet, "toma", share="cfg") as session:
        predict(unet, latents(batch=4))
    for plan, _ in session.plans().values():
        assert len(plan.rep) == 4 and torch.equal(plan.rep[:2], plan.rep[2:])


def test_a_soft_plan_is_drawn_as_the_nearest_partition(unet, latents, predict):
    from mergekit_diff.experiments.run.result import _maps

    with merging(unet, "toma") as session:
        predict(unet, latents())
    drawn = _maps(session, 1)
    assert {one["stage"] for one in drawn} == {"down", "mid", "up"}
    for one in drawn:
        assert len(one["assign"]) == math.prod(one["grid"]) and max(one["assign"]) < len(one["rep"]) == len(one["assign"]) // 2
