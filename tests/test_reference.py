"""Each strategy against the formula of its paper, written out in plain loops."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from mergekit_diff import make
from mergekit_diff.experiments.bench.memory import peak_bytes

GRIDS = [(8, 8), (6, 10), (7, 9), (5, 1), (3, 4, 5), (17,)]


def windows_of(grid, size, offset=None):
    """Lists of the tokens of every rectangle, the first begun ``offset`` before the grid; those at the border are smaller."""
    offset = offset or (0,) * len(grid)
    places = {}
    for token, place in enumerate(itertools.product(*map(range, grid))):
        window = tuple((p + o) // s for p, s, o in zip(place, size, offset, strict=True))
        places.setdefault(window, []).append(token)
    return list(places.values())


def sides(grid, side):
    """What one side means: on a video's grid, windows that stay inside a frame."""
    return (1, side, side) if len(grid) == 3 else (side,) * len(grid)


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def as_groups(plan, row=0):
    """The plan of a row as {representative: set of its tokens}."""
    groups = {}
    for token, group in enumerate(plan.assign[row].tolist()):
        groups.setdefault(int(plan.rep[row, group]), set()).add(token)
    return groups


def of_most(candidates, score, count):
    return sorted(candidates, key=lambda i: -score[i])[:count]


def slow_windows(x, windows, ratio, choose, rank="window"):
    """Groups of (N, C) tokens: in each window the r_w tokens most similar to the chosen one merge into it."""
    if rank == "grid":
        return slow_grid(x, windows, ratio, choose)
    groups = {}
    for window in windows:
        k = len(window)
        r = min(round(ratio * k), k - 1)
        rep = choose(x, window)
        sources = of_most([i for i in window if i != rep], {i: cosine(x[i], x[rep]) for i in window}, r)
        groups |= {i: {i} for i in window if i not in sources}
        if r:
            groups[rep] = {rep, *sources}
    return groups


def slow_grid(x, windows, ratio, choose):
    """The same with the r tokens of the whole grid that are most similar to the chosen one of their own window."""
    home = {i: chosen for window in windows for chosen in [choose(x, window)] for i in window}
    others = [i for i in home if home[i] != i]
    r = min(round(ratio * len(x)), len(others))
    groups = {i: {i} for i in home}
    for i in of_most(others, {i: cosine(x[i], x[home[i]]) for i in others}, r):
        groups[home[i]] |= groups.pop(i)
    return groups


def mean_similarity(x, window):
    """The token of highest mean similarity to the others of its window."""
    return by_mean_similarity(x, window)[0]


def by_mean_similarity(x, window):
    """The tokens of a window, the one of highest mean similarity to the others first."""
    means = {i: sum(cosine(x[i], x[j]) for j in window if j != i) for i in window}
    return of_most(window, means, len(window))


def representative(rule, noise):
    """The choice of a rule, given a random number for every token."""
    return {
        "highest": mean_similarity,
        "lowest": lambda x, window: by_mean_similarity(x, window)[-1],
        "upper-half": lambda x, window: max(by_mean_similarity(x, window)[: math.ceil(len(window) / 2)], key=noise.__getitem__),
        "random": lambda x, window: max(window, key=noise.__getitem__),
    }[rule]


def slow_merge(x, groups, alpha=None):
    """alpha * D + (1 - alpha) * mean(S), or the plain mean of D and S, for groups in the order of their representatives."""
    rows = []
    for rep, members in sorted(groups.items()):
        sources = [x[i] for i in members if i != rep]
        if not sources:
            rows.append(x[rep])
        elif alpha is None:
            rows.append((x[rep] + sum(sources)) / len(members))
        else:
            rows.append(alpha * x[rep] + (1 - alpha) * sum(sources) / len(sources))
    return torch.stack(rows)


@pytest.mark.parametrize("alpha", (None, 0.0, 0.3, 1.0))
@pytest.mark.parametrize("ratio", (0.25, 0.5, 0.75, 0.95))
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_retom_merges_each_window_into_its_token_of_highest_mean_similarity(grid, ratio, alpha, context, tokens):
    x = tokens(2, math.prod(grid), dtype=torch.float64)
    strategy = make("strategy", {"name": "retom-paper", "ratio": ratio, "alpha": alpha, "window": 4})
    plan = strategy.plan(x, context(grid))
    merged = plan.merge(x)
    for row in range(2):
        groups = slow_windows(x[row], windows_of(grid, sides(grid, 4)), ratio, mean_similarity)
        assert as_groups(plan, row) == groups
        torch.testing.assert_close(merged[row], slow_merge(x[row], groups, alpha), atol=1e-6, rtol=1e-6)


def test_windows_of_three_sides_reach_over_frames(context, tokens):
    x, size = tokens(1, 60, dtype=torch.float64), (2, 4, 4)
    plan = make("strategy", {"name": "retom-paper", "ratio": 0.5, "window": list(size)}).plan(x, context((3, 4, 5)))
    assert as_groups(plan) == slow_windows(x[0], windows_of((3, 4, 5), size), 0.5, mean_similarity)


def test_retom_takes_its_window_from_the_stage(context, tokens):
    x = tokens(1, 144, dtype=torch.float64)
    window = {"name": "by-stage", "down": 2, "mid": [6, 4], "up": 3}
    strategy = make("strategy", {"name": "retom-paper", "ratio": 0.5, "window": window})
    for stage, size in (("down", (2, 2)), ("mid", (6, 4)), ("up", (3, 3)), (None, (2, 2))):
        expected = slow_windows(x[0], windows_of((12, 12), size), 0.5, mean_similarity)
        assert as_groups(strategy.plan(x, context((12, 12), stage=stage))) == expected


def test_retom_windows_are_small_outside_and_large_in_the_middle(context):
    window = make("strategy", "retom-paper").window
    sizes = {stage: window(context((64, 64), stage=stage)) for stage in ("down", "mid", "up")}
    assert sizes["down"] == sizes["up"] < sizes["mid"]


def test_retom_window_larger_than_the_grid_is_the_grid(context, tokens):
    x = tokens(1, 12, dtype=torch.float64)
    plan = make("strategy", {"name": "retom-paper", "ratio": 0.5, "window": 50}).plan(x, context((3, 4)))
    assert as_groups(plan) == slow_windows(x[0], [list(range(12))], 0.5, mean_similarity)


@pytest.mark.parametrize("depth", (0, 1))
@pytest.mark.parametrize("side", (2, 3, 4, 9, 40))
@pytest.mark.parametrize("grid", [(8, 8), (7, 9), (17,), (3, 4, 5)], ids=str)
def test_shifted_windows_begin_half_a_window_earlier_at_odd_sites(grid, side, depth, context, tokens):
    x = tokens(1, math.prod(grid), dtype=torch.float64)
    window = {"name": "shifted", "inner": side, "by": "depth"}
    plan = make("strategy", {"name": "retom-paper", "ratio": 0.5, "window": window}).plan(x, context(grid, depth=depth))
    offset = (depth * (side // 2),) * len(grid)
    expected = slow_windows(x[0], windows_of(grid, sides(grid, side), offset), 0.5, mean_similarity)
    members = as_groups(plan).values()
    assert sorted(map(sorted, members)) == sorted(map(sorted, expected.values()))


@pytest.mark.parametrize("metric", ("dot", "euclidean", "manhattan", "pearson"))
def test_retom_chooses_by_the_metric_that_is_set(metric, context, tokens):
    x = tokens(1, 64, dtype=torch.float64)
    score = {
        "dot": lambda a, b: a @ b,
        "euclidean": lambda a, b: -(a - b).norm(),
        "manhattan": lambda a, b: -(a - b).abs().sum(),
        "pearson": lambda a, b: torch.corrcoef(torch.stack([a, b]))[0, 1],
    }[metric]
    plan = make("strategy", {"name": "retom-paper", "ratio": 0.5, "window": 4, "metric": metric}).plan(x, context((8, 8)))
    groups = as_groups(plan)
    for window in windows_of((8, 8), (4, 4)):
        means = {i: float(sum(score(x[0, i], x[0, j]) for j in window if j != i)) for i in window}
        rep = max(window, key=means.__getitem__)
        near = of_most([i for i in window if i != rep], {i: float(score(x[0, i], x[0, rep])) for i in window}, 8)
        assert groups[rep] == {rep, *near}


@pytest.mark.parametrize("alpha", (None, 0.4))
@pytest.mark.parametrize("ratio", (0.25, 0.5, 0.95))
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_random_dest_merges_each_window_into_its_token_of_most_noise(grid, ratio, alpha, context, tokens):
    x, ctx = tokens(2, math.prod(grid), dtype=torch.float64), context(grid)
    plan = make("strategy", {"name": "random-dest", "ratio": ratio, "alpha": alpha, "window": 4}).plan(x, ctx)
    merged = plan.merge(x)
    noise = ctx.noise.tolist()
    for row in range(2):
        windows = windows_of(grid, sides(grid, 4))
        groups = slow_windows(x[row], windows, ratio, lambda _, window: max(window, key=noise.__getitem__))
        assert as_groups(plan, row) == groups
        torch.testing.assert_close(merged[row], slow_merge(x[row], groups, alpha), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("draw", ("anew", "still"))
@pytest.mark.parametrize("rank", ("window", "grid"))
@pytest.mark.parametrize("rule", ("highest", "upper-half", "random", "lowest"))
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_retom_merges_into_the_representative_that_is_set(grid, rule, rank, draw, context, tokens):
    x, ctx = tokens(2, math.prod(grid), dtype=torch.float64), context(grid)
    numbers = (ctx.noise if draw == "anew" else ctx.still).tolist()
    windows = windows_of(grid, sides(grid, 4))
    for ratio in (0.25, 0.5, 0.95):
        settings = {"ratio": ratio, "window": 4, "representative": rule, "rank": rank, "draw": draw}
        plan = make("strategy", {"name": "retom-paper", **settings}).plan(x, ctx)
        for row in range(2):
            assert as_groups(plan, row) == slow_windows(x[row], windows, ratio, representative(rule, numbers), rank)


@pytest.mark.parametrize("alpha", (0.0, 0.3, 1.0))
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_alpha_weighs_groups_of_any_size(grid, alpha, context, tokens):
    x = tokens(2, math.prod(grid), dtype=torch.float64)
    plan = make("strategy", {"name": "retom-paper", "ratio": 0.4, "window": 4, "rank": "grid", "alpha": alpha}).plan(
        x, context(grid)
    )
    for row in range(2):
        groups = slow_windows(x[row], windows_of(grid, sides(grid, 4)), 0.4, mean_similarity, "grid")
        torch.testing.assert_close(plan.merge(x)[row], slow_merge(x[row], groups, alpha), atol=1e-6, rtol=1e-6)


def test_rank_of_the_grid_merges_more_where_tokens_are_alike(context, tokens):
    x = tokens(1, 64, dtype=torch.float64)
    x[:, :32] = 1 + 0.01 * x[:, :32]
    for rank, merged in (("window", [16, 16]), ("grid", [30, 2])):
        plan = make("strategy", {"name": "retom-paper", "ratio": 0.5, "window": 4, "rank": rank}).plan(x, context((8, 8)))
        groups = as_groups(plan)
        assert [sum(len(groups[rep]) - 1 for rep in groups if rep // 32 == half) for half in (0, 1)] == merged


@pytest.mark.parametrize("draw", ("anew", "still"))
@pytest.mark.parametrize("rank", ("window", "grid"))
@pytest.mark.parametrize("alpha", (None, 0.4))
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_random_dest_is_retom_with_random_representatives(grid, alpha, rank, draw, context, tokens):
    x, ctx = tokens(2, math.prod(grid)), context(grid)
    settings = {"ratio": 0.5, "window": 4, "alpha": alpha, "rank": rank, "draw": draw}
    plan = make("strategy", {"name": "random-dest", **settings}).plan(x, ctx)
    other = make("strategy", {"name": "retom-paper", "representative": "random", **settings}).plan(x, ctx)
    assert torch.equal(plan.assign, other.assign) and torch.equal(plan.rep, other.rep)
    assert torch.equal(plan.merge(x), other.merge(x))


def test_destinations_of_random_dest_are_the_same_in_every_row(context, tokens):
    x, ctx = tokens(3, 64), context((8, 8))
    for rule, same in (("random", True), ("upper-half", False), ("highest", False)):
        settings = {"name": "retom-paper", "ratio": 0.5, "window": 4, "representative": rule, "keep_representatives": 2}
        positions = make("strategy", settings).plan(x, ctx).positions
        assert torch.equal(positions, positions[:1].expand(3, -1)) == same


@pytest.mark.parametrize("rank", ("window", "grid"))
@pytest.mark.parametrize("rule", ("highest", "upper-half", "random", "lowest"))
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_kept_representatives_are_those_of_earlier_tokens_and_sources_those_of_now(grid, rule, rank, context, tokens):
    n = math.prod(grid)
    first, second, third = (tokens(2, n, dtype=torch.float64, seed=seed) for seed in range(3))
    noise = torch.rand(2, n, generator=torch.Generator().manual_seed(5))
    settings = {"ratio": 0.5, "window": 4, "representative": rule, "rank": rank, "keep_representatives": 5}
    strategy = make("strategy", {"name": "retom-paper", **settings})
    plan = strategy.plan(first, context(grid, noise=noise[0]))
    for x in (second, third):
        plan = strategy.plan(x, context(grid, noise=noise[1], signals={"last_plan": plan}))
        for row in range(2):
            windows = windows_of(grid, sides(grid, 4))
            chosen = {tuple(window): representative(rule, noise[0].tolist())(first[row], window) for window in windows}
            groups = slow_windows(x[row], windows, 0.5, lambda _, window, chosen=chosen: chosen[tuple(window)], rank)
            assert as_groups(plan, row) == groups


def test_representatives_are_chosen_where_nothing_merges_yet(context, tokens):
    first, second = (tokens(1, 64, dtype=torch.float64, seed=seed) for seed in range(2))
    ratio = {"name": "step", "values": [0.0, 0.5], "at": [0.5]}
    strategy = make("strategy", {"name": "retom-paper", "ratio": ratio, "window": 4, "keep_representatives": 5})
    last = strategy.plan(first, context((8, 8)))
    assert last.num_groups == 64
    plan = strategy.plan(second, context((8, 8), progress=0.7, signals={"last_plan": last}))
    windows = windows_of((8, 8), (4, 4))
    chosen = {tuple(window): mean_similarity(first[0], window) for window in windows}
    assert as_groups(plan) == slow_windows(second[0], windows, 0.5, lambda _, window: chosen[tuple(window)])


def slow_tomesd(x, grid, stride, ratio, noise=None):
    """One destination a window; of all other tokens the r most similar to their nearest destination merge into it."""
    windows = windows_of(grid, stride)
    destinations = [window[0] if noise is None else max(window, key=noise.__getitem__) for window in windows]
    sources = [i for i in range(len(x)) if i not in destinations]
    nearest = {i: max(destinations, key=lambda j: cosine(x[i], x[j])) for i in sources}
    r = min(int(len(x) * ratio), len(sources))
    gone = of_most(sources, {i: cosine(x[i], x[nearest[i]]) for i in sources}, r)
    groups = {i: {i} for i in range(len(x)) if i not in gone}
    for i in gone:
        groups[nearest[i]].add(i)
    return groups


DESTINATIONS = {"anew": {}, "still": {"draw": "still"}, "first": {"randomize": False}}


@pytest.mark.parametrize("destinations", DESTINATIONS)
@pytest.mark.parametrize("ratio", (0.25, 0.5, 0.95))
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_tomesd_merges_the_most_similar_sources_into_their_nearest_destination(grid, ratio, destinations, context, tokens):
    x, ctx = tokens(2, math.prod(grid), dtype=torch.float64), context(grid)
    plan = make("strategy", {"name": "tomesd", "ratio": ratio, **DESTINATIONS[destinations]}).plan(x, ctx)
    merged = plan.merge(x)
    for row in range(2):
        noise = {"anew": ctx.noise.tolist(), "still": ctx.still.tolist(), "first": None}[destinations]
        groups = slow_tomesd(x[row], grid, sides(grid, 2), ratio, noise)
        assert as_groups(plan, row) == groups
        torch.testing.assert_close(merged[row], slow_merge(x[row], groups), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("stride", ((3, 2), (1, 4), (50, 50)), ids=str)
def test_tomesd_takes_any_stride(stride, context, tokens):
    x = tokens(1, 63, dtype=torch.float64)
    strategy = make("strategy", {"name": "tomesd", "ratio": 0.5, "stride": list(stride), "randomize": False})
    assert as_groups(strategy.plan(x, context((7, 9)))) == slow_tomesd(x[0], (7, 9), stride, 0.5)


def test_tomesd_ratio_beyond_its_sources_is_granted_as_far_as_it_goes(context, tokens):
    plan = make("strategy", {"name": "tomesd", "ratio": 0.95}).plan(tokens(1, 64), context((8, 8)))
    assert plan.granted == 0.75


@pytest.mark.parametrize("ratio", (0.0, 0.25, 0.5, 0.75, 0.95))
@pytest.mark.parametrize("grid", [(8, 8), (6, 10), (7, 9), (1, 1), (2, 1)], ids=str)
def test_downsample_reads_the_tokens_of_the_nearest_neighbour_grid(grid, ratio, context, tokens):
    x = tokens(2, math.prod(grid))
    plan = make("strategy", {"name": "downsample", "ratio": ratio}).plan(x, context(grid))
    sides = [max(1, round(side * math.sqrt(1 - ratio))) for side in grid]
    image = x.mT.unflatten(2, grid)
    resized = F.interpolate(image, size=sides, mode="nearest-exact").flatten(2).mT
    assert torch.equal(plan.merge(x), resized)
    assert torch.equal(plan.select(x), resized)


def test_downsample_plans_a_long_line_without_comparing_all_tokens(context):
    plan = make("strategy", "downsample").plan
    x, line = torch.zeros(1, 65536, 1), context((65536,))
    assert peak_bytes(lambda: plan(x, line), "cpu") < 16 * 8 * 65536  # a few numbers a token


@pytest.mark.parametrize("grid", [(17,), (3, 4, 5)], ids=str)
def test_downsample_scales_every_axis_alike(grid, context, tokens):
    x = tokens(1, math.prod(grid))
    plan = make("strategy", {"name": "downsample", "ratio": 0.5}).plan(x, context(grid))
    sides = [max(1, round(side * 0.5 ** (1 / len(grid)))) for side in grid]
    resized = F.interpolate(x.mT.unflatten(2, grid), size=sides, mode="nearest-exact").flatten(2).mT
    assert torch.equal(plan.merge(x), resized)


@pytest.mark.parametrize("grid", [(8, 8), (7, 9), (17,)], ids=str)
def test_downsample_assigns_every_token_to_a_nearest_kept_one(grid, context, tokens):
    plan = make("strategy", {"name": "downsample", "ratio": 0.7}).plan(tokens(1, math.prod(grid)), context(grid))
    place = list(itertools.product(*map(range, grid)))
    kept = plan.rep[0].tolist()
    for token, group in enumerate(plan.assign[0].tolist()):
        nearest = min(math.dist(place[token], place[k]) for k in kept)
        assert math.dist(place[token], place[kept[group]]) == pytest.approx(nearest)


@pytest.mark.parametrize("progress", (0.0, 0.3, 1.0))
@pytest.mark.parametrize("inner", ("retom-paper", "tomesd", "random-dest"))
def test_dynamic_ratio_is_its_inner_strategy_at_the_ratio_of_the_timestep(inner, progress, context, tokens):
    x, ctx = tokens(2, 64), context((8, 8), progress=progress)
    schedule = {"name": "linear", "start": 0.7, "end": 0.2}
    dynamic = make("strategy", {"name": "dynamic-ratio", "ratio": schedule, "inner": {"name": inner, "ratio": 0.1}})
    plain = make("strategy", {"name": inner, "ratio": 0.7 - 0.5 * progress})
    assert torch.equal(dynamic.plan(x, ctx).assign, plain.plan(x, ctx).assign)


def slow_redundancy(x, grid, threshold):
    """Share of tokens more similar than the threshold to the next one along some axis."""
    place = list(itertools.product(*map(range, grid)))
    index = {p: i for i, p in enumerate(place)}
    count = 0
    for row in x:
        for i, p in enumerate(place):
            steps = [tuple(c + (a == axis) for a, c in enumerate(p)) for axis in range(len(grid))]
            count += any(s in index and cosine(row[i], row[index[s]]) > threshold for s in steps)
    return count / (len(x) * len(place))


@pytest.mark.parametrize("threshold", (-0.5, 0.0, 0.4, 0.9))
@pytest.mark.parametrize("grid", [(8, 8), (7, 9), (17,), (3, 4, 5)], ids=str)
def test_dynamic_ratio_by_threshold_follows_the_share_of_alike_tokens(grid, threshold, context, tokens):
    n = math.prod(grid)
    x, ctx = tokens(2, n, channels=3, dtype=torch.float64), context(grid)
    settings = {"name": "dynamic-ratio", "ratio": 0.9, "threshold": threshold, "quantum": 8, "inner": "tomesd"}
    plan = make("strategy", settings).plan(x, ctx)
    kept = 8 * math.ceil(n * (1 - slow_redundancy(x, grid, threshold)) / 8)
    ratio = min(0.9, max(0.0, 1 - kept / n))
    expected = make("strategy", {"name": "tomesd", "ratio": ratio}).plan(x, ctx)
    assert torch.equal(plan.assign, expected.assign)
    assert abs(plan.num_groups - max(min(kept, n), n - int(0.9 * n), len(windows_of(grid, sides(grid, 2))))) <= 1


def test_dynamic_ratio_by_threshold_merges_a_flat_picture_and_spares_a_busy_one(context, tokens):
    strategy = make("strategy", {"name": "dynamic-ratio", "ratio": 0.75, "threshold": 0.8, "quantum": 16})
    flat, busy = torch.ones(1, 256, 8) + 0.01 * tokens(1, 256), tokens(1, 256)
    assert strategy.plan(flat, context((16, 16))).granted == 0.75
    assert strategy.plan(busy, context((16, 16))).granted < 0.2
    both = strategy.plan(torch.cat([flat, busy]), context((16, 16)))
    assert 0.2 < both.granted < 0.75


def test_dynamic_ratio_by_threshold_is_batch_shared():
    assert make("strategy", {"name": "dynamic-ratio", "threshold": 0.5}).batch_shared
    assert not make("strategy", "dynamic-ratio").batch_shared
    wrapped = {"name": "dynamic-ratio", "inner": {"name": "dynamic-ratio", "threshold": 0.5}}
    assert make("strategy", wrapped).batch_shared


@pytest.mark.parametrize("ratio", (0.25, 0.5, 0.95))
@pytest.mark.parametrize(("stride", "reach"), ((2, 1), (2, 2), (2, 20), (4, 1), (4, 2)))
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_local_match_is_tomesd_with_destinations_of_the_same_block_only(grid, stride, reach, ratio, context, tokens):
    x, ctx = tokens(2, math.prod(grid), dtype=torch.float64), context(grid)
    plan = make("strategy", {"name": "local-match", "ratio": ratio, "stride": stride, "reach": reach}).plan(x, ctx)
    noise = ctx.noise.tolist()
    chosen = {max(window, key=noise.__getitem__) for window in windows_of(grid, sides(grid, stride))}
    for row in range(2):
        nearest = {}
        for block in windows_of(grid, sides(grid, stride * reach)):
            for i in set(block) - chosen:
                nearest[i] = max(chosen.intersection(block), key=lambda j: cosine(x[row, i], x[row, j]))
        r = min(round(len(noise) * ratio), len(nearest))
        groups = {i: {i} for i in range(len(noise))}
        for i in of_most(list(nearest), {i: cosine(x[row, i], x[row, j]) for i, j in nearest.items()}, r):
            groups[nearest[i]] |= groups.pop(i)
        assert as_groups(plan, row) == groups
