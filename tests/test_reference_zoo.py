"""Published strategies against the formulas of their papers, written out in plain loops: the same groups, the same tokens."""

import dataclasses
import itertools
import math
from statistics import NormalDist

import pytest
import torch
from test_reference import GRIDS, as_groups, of_most, sides, windows_of
from torch.nn import functional as F

from mergekit_diff import make

RATIOS = (0.25, 0.5, 0.75)
GROUPED = [(8, 8), (7, 9), (3, 4, 5), (17,)]


def table(x):
    """The cosines of all pairs."""
    unit = x / x.norm(dim=-1, keepdim=True)
    return (unit @ unit.T).tolist()


def mean(rows, _):
    return sum(rows) / len(rows)


def pick(_, rep):
    return rep


def mlerp(rows, _):
    """The mean, at the largest norm of the rows."""
    average = mean(rows, _)
    return average * max(row.norm() for row in rows) / average.norm()


def assert_same(plan, x, groups, reduce, row):
    """The plan of a row has these groups, and makes of them what the loop makes of them."""
    assert as_groups(plan, row) == groups
    exact = x[row].double()
    expected = torch.stack([reduce([exact[i] for i in members], exact[rep]) for rep, members in sorted(groups.items())])
    torch.testing.assert_close(plan.merge(x)[row].double(), expected, atol=1e-5, rtol=1e-5)


def bipartite(n, sources, nearest, score, r):
    """Groups in which the r sources of the highest score join their nearest destination."""
    groups = {i: {i} for i in range(n)}
    for i in of_most(sources, score, r):
        groups[nearest[i]] |= groups.pop(i)
    return groups


def match(n, sources, destinations, like, r):
    nearest = {i: max(destinations, key=lambda j: like[i][j]) for i in sources}
    return bipartite(n, sources, nearest, {i: like[i][nearest[i]] for i in sources}, r)


def others(n, chosen):
    return [i for i in range(n) if i not in set(chosen)]


def random_destinations(windows, ctx):
    noise = ctx.noise.tolist()
    return sorted(max(window, key=noise.__getitem__) for window in windows)


def slow_sito(x, grid, ratio, weight, noise):
    n, like = len(x), table(x)
    score = [sum(like[i]) + weight * NormalDist().inv_cdf(min(max(noise[i], 1e-6), 1 - 1e-6)) for i in range(n)]
    base = [max(window, key=score.__getitem__) for window in windows_of(grid, sides(grid, 2))]
    free = others(n, base)
    pruned = of_most(free, {i: max(like[i][b] for b in base) for i in free}, min(int(n * ratio), len(free)))
    kept = others(n, pruned)
    groups = {i: {i} for i in kept}
    for i in pruned:
        groups[max(kept, key=lambda j: like[i][j])].add(i)
    return groups


@pytest.mark.parametrize("weight", (0.0, 2.0))
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_sito_prunes_what_resembles_a_base_token_and_copies_from_any_kept_one(grid, ratio, weight, context, tokens):
    x, ctx = tokens(2, math.prod(grid)), context(grid)
    plan = make("strategy", {"name": "sito", "ratio": ratio, "noise": weight}).plan(x, ctx)
    for row in range(2):
        groups = slow_sito(x[row].double(), grid, ratio, weight, ctx.noise.double().tolist())
        assert_same(plan, x, groups, pick, row)


def detail(x, grid):
    """For every token, the sum over channels of |its neighbours - itself|; beyond the border it is its own neighbour."""
    place = list(itertools.product(*map(range, grid)))
    index = {p: i for i, p in enumerate(place)}
    total = []
    for i, p in enumerate(place):
        laplacian = torch.zeros_like(x[i])
        for axis in range(max(0, len(grid) - 2), len(grid)):
            for step in (-1, 1):
                neighbour = tuple(c + step * (a == axis) for a, c in enumerate(p))
                laplacian += x[index.get(neighbour, i)] - x[i]
        total.append(float(laplacian.abs().sum()))
    return total


def test_detail_inside_an_image_is_the_convolution_of_the_paper(tokens):
    from mergekit_diff.strategies.lgtm import laplacian

    x = tokens(2, 63)
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).expand(8, 1, 3, 3)
    expected = F.conv2d(x.mT.unflatten(2, (7, 9)), kernel, groups=8).abs().sum(1)
    torch.testing.assert_close(laplacian(x, (7, 9)).view(2, 7, 9)[:, 1:-1, 1:-1], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("protect", (0.0, 0.4))
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_lgtm_matches_with_the_smoothest_token_of_each_window(grid, ratio, protect, context, tokens):
    n, x = math.prod(grid), tokens(2, math.prod(grid))
    plan = make("strategy", {"name": "lgtm", "ratio": ratio, "protect": protect}).plan(x, context(grid))
    for row in range(2):
        exact = x[row].double()
        score = detail(exact, grid)
        destinations = [min(window, key=score.__getitem__) for window in windows_of(grid, sides(grid, 2))]
        sources = others(n, destinations)
        protected = of_most(sources, score, int(protect * len(sources)))
        sources = [i for i in sources if i not in protected]
        groups = match(n, sources, destinations, table(exact), min(int(n * ratio), len(sources)))
        assert_same(plan, x, groups, mean, row)


@pytest.mark.parametrize("reduction", ("mean", "mlerp"))
@pytest.mark.parametrize("pool", ("mean", "max"))
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_abp_merges_the_smoothest_tiles_as_a_whole(grid, ratio, pool, reduction, context, tokens):
    n, x = math.prod(grid), tokens(2, math.prod(grid))
    plan = make("strategy", {"name": "abp", "ratio": ratio, "pool": pool, "reduction": reduction}).plan(x, context(grid))
    windows = windows_of(grid, sides(grid, 2))
    tiles = [tile for tile in windows if len(tile) == max(map(len, windows))]
    for row in range(2):
        score = detail(x[row].double(), grid)
        of_tile = [sum(score[i] for i in tile) if pool == "mean" else max(score[i] for i in tile) for tile in tiles]
        smooth = sorted(range(len(tiles)), key=of_tile.__getitem__)[: int(n * ratio) // (len(tiles[0]) - 1)]
        groups = {i: {i} for i in range(n)}
        for t in smooth:
            for i in tiles[t][1:]:
                groups[tiles[t][0]] |= groups.pop(i)
        assert_same(plan, x, groups, {"mean": mean, "mlerp": mlerp}[reduction], row)


def elu(x):
    return x if x > 0 else math.exp(x) - 1


@pytest.mark.parametrize("depth", (0, 2, 3))
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_pitome_merges_among_the_tokens_of_highest_energy(grid, ratio, depth, context, tokens):
    n, x = math.prod(grid), tokens(2, math.prod(grid))
    plan = make("strategy", {"name": "pitome", "ratio": ratio}).plan(x, context(grid, depth=depth))
    margin, r = 0.9 - 0.9 * depth / 3, min(int(n * ratio), n // 2)
    for row in range(2):
        like = table(x[row].double())
        energy = [sum(elu(s - margin) for s in like[i]) / n for i in range(n)]
        ranked = of_most(range(n), energy, 2 * r)
        assert_same(plan, x, match(n, ranked[::2], ranked[1::2], like, r), mean, row)


@pytest.mark.parametrize("what", ("keys", "normalized", "block"))
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_tome_matches_every_second_token_with_the_others_by_what_it_is_given(grid, ratio, what, context, tokens):
    n, x, seen = math.prod(grid), tokens(2, math.prod(grid)), tokens(2, math.prod(grid), 3, seed=1)
    strategy = make("strategy", {"name": "tome", "ratio": ratio, "tokens": what})
    plan = strategy.plan(x, context(grid, signals={word: seen for word in strategy.asks()}))
    for row in range(2):
        like = table((x if what == "block" else seen)[row].double())
        groups = match(n, list(range(0, n, 2)), list(range(1, n, 2)), like, min(int(n * ratio), n // 2))
        assert_same(plan, x, groups, mean, row)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("grid", [*GRIDS, (4, 4, 4)], ids=str)
def test_asymrnr_replaces_the_tokens_nearest_to_a_random_one_of_each_cube(grid, ratio, context, tokens):
    n, x, ctx = math.prod(grid), tokens(2, math.prod(grid)), context(grid)
    plan = make("strategy", {"name": "asymrnr", "ratio": ratio}).plan(x, ctx)
    destinations = random_destinations(windows_of(grid, (2,) * len(grid)), ctx)
    sources = others(n, destinations)
    stay = max(int(n * (1 - ratio)) - len(destinations), 0)
    for row in range(2):
        exact = x[row].double()
        like = [(-(exact - a).square().sum(-1)).tolist() for a in exact]
        assert_same(plan, x, match(n, sources, destinations, like, len(sources) - stay), pick, row)


@pytest.mark.parametrize("ratio", (0.2, 0.5, 0.675, 0.9))
@pytest.mark.parametrize("grid", [(4, 3, 4), (3, 4, 5), (9, 2, 3), (1, 3, 3), (5, 1, 2)], ids=str)
def test_vidtome_replaces_tokens_by_those_of_one_frame_of_their_chunk(grid, ratio, context, tokens):
    frames, size = grid[0], grid[1] * grid[2]
    x, ctx = tokens(2, frames * size), context(grid)
    plan = make("strategy", {"name": "vidtome", "ratio": ratio}).plan(x, ctx)
    for row in range(2):
        like, groups = table(x[row].double()), {}
        for first in range(0, frames, 4):
            chunk = range(first, min(first + 4, frames))
            kept = max(chunk, key=lambda f: float(ctx.noise[f * size]))
            of_frame = {f: list(range(f * size, (f + 1) * size)) for f in chunk}
            sources = [i for f in chunk if f != kept for i in of_frame[f]]
            nearest = {i: max(of_frame[kept], key=lambda j: like[i][j]) for i in sources}
            gone = of_most(sources, {i: like[i][nearest[i]] for i in sources}, round(ratio * len(chunk) * size))
            groups |= {i: {i} for f in chunk for i in of_frame[f] if i not in gone}
            for i in gone:
                groups[nearest[i]].add(i)
        assert_same(plan, x, groups, pick, row)


def test_vidtome_refuses_a_grid_without_frames_in_one_line(context, tokens):
    with pytest.raises(ValueError, match=r"frames, height and width at site, got \(8, 8\)") as raised:
        make("strategy", "vidtome").plan(tokens(1, 64), context((8, 8)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("depth", range(4))
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("grid", GROUPED, ids=str)
def test_tofu_prunes_in_the_first_half_of_the_sites_and_keeps_norms_in_the_other(grid, ratio, depth, context, tokens):
    n, x, ctx = math.prod(grid), tokens(2, math.prod(grid)), context(grid, depth=depth)
    plan = make("strategy", {"name": "tofu", "ratio": ratio}).plan(x, ctx)
    destinations = random_destinations(windows_of(grid, sides(grid, 2)), ctx)
    sources = others(n, destinations)
    for row in range(2):
        groups = match(n, sources, destinations, table(x[row].double()), min(int(n * ratio), len(sources)))
        assert_same(plan, x, groups, pick if depth < 2 else mlerp, row)


@pytest.mark.parametrize("progress", (0.0, 0.4, 1.0))
@pytest.mark.parametrize("grid", [(8, 8), (6, 10)], ids=str)
def test_iekvd_is_between_nearest_and_average_pooling(grid, progress, context, tokens):
    x = tokens(2, math.prod(grid))
    rising = {"name": "linear", "start": 0.0, "end": 0.9}
    plan = make("strategy", {"name": "iekvd", "ratio": 0.75, "average": rising}).plan(x, context(grid, progress=progress))
    image, average = x.mT.unflatten(2, grid), 0.9 * progress
    nearest = F.interpolate(image, scale_factor=0.5, mode="nearest-exact")
    expected = (1 - average) * nearest + average * F.avg_pool2d(image, 2)
    torch.testing.assert_close(plan.merge(x), expected.flatten(2).mT, atol=1e-5, rtol=1e-5)
    assert torch.equal(plan.select(x), nearest.flatten(2).mT)


@pytest.mark.parametrize("ratio", (0.2, 0.5))
@pytest.mark.parametrize("grid", [(7, 9), (17,), (3, 4, 5)], ids=str)
def test_iekvd_blends_pools_of_any_size(grid, ratio, context, tokens):
    x = tokens(2, math.prod(grid))
    plan = make("strategy", {"name": "iekvd", "ratio": ratio, "average": 0.3}).plan(x, context(grid))
    for row in range(2):
        exact = x[row].double()
        expected = [
            0.7 * exact[rep] + 0.3 * mean([exact[i] for i in members], rep) for rep, members in sorted(as_groups(plan).items())
        ]
        torch.testing.assert_close(plan.merge(x)[row].double(), torch.stack(expected), atol=1e-5, rtol=1e-5)


def alike(x, grid, ctx, threshold):
    """Over the rows of a batch, the most sources whose cosine with their nearest destination reaches the threshold."""
    destinations = random_destinations(windows_of(grid, sides(grid, 2)), ctx)
    tables = [table(row.double()) for row in x]
    return max(sum(max(t[i][j] for j in destinations) >= threshold for i in others(len(t), destinations)) for t in tables)


@pytest.mark.parametrize("quantum", (1, 8))
@pytest.mark.parametrize("threshold", (0.2, 0.5, 0.8))
@pytest.mark.parametrize("grid", GROUPED, ids=str)
def test_ca_tome_merges_as_many_as_were_alike_in_the_plan_before(grid, threshold, quantum, context, tokens):
    n, (first, second), ctx = math.prod(grid), (tokens(2, math.prod(grid), 4, seed=s) for s in (0, 1)), context(grid)
    strategy = make("strategy", {"name": "ca-tome", "ratio": 0.25, "threshold": threshold, "quantum": quantum})
    before = strategy.plan(first, ctx)
    assert n - before.num_groups == int(0.25 * n)
    later = dataclasses.replace(ctx, noise=ctx.noise.flip(0))
    plan = strategy.after(before).plan(second, later)
    kept = math.ceil((n - alike(first, grid, ctx, threshold)) / quantum) * quantum
    destinations = random_destinations(windows_of(grid, sides(grid, 2)), later)
    for row in range(2):
        groups = match(n, others(n, destinations), destinations, table(second[row].double()), max(n - kept, 0))
        assert_same(plan, second, groups, mean, row)
