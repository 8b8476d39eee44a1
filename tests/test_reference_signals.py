"""The strategies that plan by what was recorded, against the formulas of their papers written out in plain loops."""

import itertools
import math
from statistics import NormalDist

import pytest
import torch
from test_reference import GRIDS, as_groups, cosine, of_most, sides, windows_of

from mergekit_diff import make
from mergekit_diff.recording import Prediction
from mergekit_diff.reductions import Mean, Pick

RATIOS = (0.3, 0.5, 0.7)


def drawn(*shape, seed=3):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def groups_of(targets):
    """{representative: set of its tokens} from {token: its representative}."""
    groups = {}
    for token, rep in targets.items():
        groups.setdefault(rep, set()).add(token)
    return groups


def nearest(x, token, candidates):
    return max(candidates, key=lambda c: cosine(x[token], x[c]))


def slow_prune(x, windows, ratio, score):
    """DaTo: a base token a window; of the others those nearest to one go, each copied from the nearest that stays."""
    bases = [max(window, key=score.__getitem__) for window in windows]
    others = [i for i in range(len(x)) if i not in bases]
    likeness = {i: max(cosine(x[i], x[b]) for b in bases) for i in others}
    gone = of_most(others, likeness, min(int(ratio * len(x)), len(others)))
    kept = [i for i in range(len(x)) if i not in gone]
    return groups_of({i: nearest(x, i, kept) if i in gone else i for i in range(len(x))})


@pytest.mark.parametrize("sign", (-1, 1))
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_dato_prunes_around_the_tokens_whose_prediction_changes_most_or_least(grid, ratio, sign, context, tokens):
    n = math.prod(grid)
    x, change, noise = tokens(2, n, dtype=torch.float64), drawn(2, n), drawn(n, seed=n)
    noise[0] = 0.25 if sign < 0 else 0.75
    strategy = make("strategy", {"name": "dato", "ratio": ratio})
    z = [NormalDist().inv_cdf(min(max(float(u), 1e-6), 1 - 1e-6)) for u in noise]
    for signals in ({}, {"prediction": Prediction(change=change)}):
        plan = strategy.plan(x, context(grid, noise=noise, signals=signals))
        assert plan.reduction == Pick()
        for row in range(2):
            score = {i: 0.1 * z[i] + (sign * float(change[row, i]) if signals else 0.0) for i in range(n)}
            assert as_groups(plan, row) == slow_prune(x[row], windows_of(grid, sides(grid, 2)), ratio, score)


def slow_importance(x, ratio, pool, h, noise):
    """ImToMe: a quarter of the tokens, drawn from the important ones, are destinations; the unimportant merge first."""
    n = len(x)
    size = max(1, n // 4)
    r = min(int(n * ratio), n - size)
    important = of_most(range(n), h, min(n, max(size, int(pool * (n - int(n * ratio))))))
    destinations = sorted(important, key=lambda i: -noise[i])[:size]
    sources = [i for i in range(n) if i not in destinations]
    score = {i: max(cosine(x[i], x[d]) for d in destinations) + (0 if i in important else 1e5) for i in sources}
    merged = of_most(sources, score, r)
    return groups_of({i: nearest(x, i, destinations) if i in merged else i for i in range(n)})


def slow_match(x, destinations, ratio):
    """ToMeSD: the sources most similar to a destination merge into it."""
    sources = [i for i in range(len(x)) if i not in destinations]
    score = {i: max(cosine(x[i], x[d]) for d in destinations) for i in sources}
    merged = of_most(sources, score, min(int(len(x) * ratio), len(sources)))
    return groups_of({i: nearest(x, i, destinations) if i in merged else i for i in range(len(x))})


@pytest.mark.parametrize("pool", (1.0, 1.4))
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_imtome_keeps_apart_what_guidance_changes_most(grid, ratio, pool, context, tokens):
    n = math.prod(grid)
    x, h = tokens(2, n, dtype=torch.float64), drawn(2, n)
    ctx = context(grid, step=2, signals={"prediction": Prediction(guidance=h)})
    plan = make("strategy", {"name": "imtome", "ratio": ratio, "pool": pool}).plan(x, ctx)
    assert plan.reduction == Mean()
    for row in range(2):
        assert as_groups(plan, row) == slow_importance(x[row], ratio, pool, h[row].tolist(), ctx.noise.tolist())


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_imtome_prunes_as_tomesd_before_it_merges_and_without_guidance(grid, ratio, context, tokens):
    n = math.prod(grid)
    x, strategy = tokens(1, n, dtype=torch.float64), make("strategy", {"name": "imtome", "ratio": ratio})
    known = {"prediction": Prediction(guidance=drawn(1, n))}
    for step, signals, reduction in ((0, {}, Pick()), (1, known, Pick()), (2, {}, Mean())):
        ctx = context(grid, step=step, signals=signals)
        plan = strategy.plan(x, ctx)
        destinations = [max(w, key=ctx.noise.tolist().__getitem__) for w in windows_of(grid, sides(grid, 2))]
        assert plan.reduction == reduction and as_groups(plan) == slow_match(x[0], destinations, ratio)


def slow_structure(x, windows, ratio, age, noise, weight=0.05):
    """SDTM: the windows whose tokens are most alike, and have not been merged for long, become one token each."""
    k = max(map(len, windows))
    whole = [tuple(w) for w in windows if len(w) == k]
    mean_age = max(sum(age) / len(age), 1e-6)
    score = {}
    for window in whole:
        likeness = [cosine(x[i], x[j]) for i, j in itertools.combinations(window, 2)]
        older = sum(age[i] / mean_age for i in window) / k
        score[window] = (sum(likeness) / len(likeness) if likeness else 0.0) - weight * older
    count = 0 if k == 1 else min(int(ratio * len(x)) // (k - 1), len(whole))
    targets = {i: i for i in range(len(x))}
    for window in of_most(whole, score, count):
        targets |= dict.fromkeys(window, max(window, key=noise.__getitem__))
    return groups_of(targets)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_sdtm_collapses_windows_while_structure_forms(grid, ratio, context, tokens):
    n = math.prod(grid)
    x, strategy = tokens(2, n, dtype=torch.float64), make("strategy", {"name": "sdtm", "ratio": ratio})
    for age in (None, (20 * drawn(2, n)).round()):
        ctx = context(grid, progress=0.39, signals={} if age is None else {"age": age})
        plan = strategy.plan(x, ctx)
        assert plan.roles is None and plan.keep == 0.8 and plan.reduction == Mean() and plan.weight is None
        for row in range(2):
            ages = [0.0] * n if age is None else age[row].tolist()
            assert as_groups(plan, row) == slow_structure(
                x[row], windows_of(grid, sides(grid, 2)), ratio, ages, ctx.noise.tolist()
            )


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_sdtm_matches_with_the_oldest_token_of_every_window_later(grid, ratio, context, tokens):
    n = math.prod(grid)
    x, strategy = tokens(2, n, dtype=torch.float64), make("strategy", {"name": "sdtm", "ratio": ratio})
    for age in (None, (4 * drawn(2, n)).round()):
        ctx = context(grid, progress=0.4, signals={} if age is None else {"age": age})
        plan = strategy.plan(x, ctx)
        assert plan.roles == ("feed_forward",) and plan.keep == 0.8
        for row in range(2):
            rank = [(0.0 if age is None else float(age[row, i]), float(ctx.noise[i])) for i in range(n)]
            destinations = [max(w, key=rank.__getitem__) for w in windows_of(grid, sides(grid, 2))]
            assert as_groups(plan, row) == slow_match(x[row], destinations, ratio)


def test_sdtm_leaves_every_third_step_whole_and_follows_its_quarter_of_a_cosine(context, tokens):
    x, strategy = tokens(1, 64), make("strategy", "sdtm")
    merged = [strategy.plan(x, context((8, 8), step=step, progress=step / 9)) is not None for step in range(9)]
    assert merged == [step not in (3, 6) for step in range(9)]
    assert make("strategy", {"name": "sdtm", "whole_every": 0}).plan(x, context((8, 8), step=3)) is not None
    ratios = [strategy.ratio(context((8, 8), progress=p)) for p in (0.0, 0.5, 1.0)]
    assert ratios == pytest.approx([0.7, 0.3 + 0.4 * math.cos(math.pi / 4), 0.3])


def test_long_merged_windows_are_let_go(context, tokens):
    """The sign of the age: of two windows that are alike, the one that was merged for long stays."""
    x = tokens(1, 4).repeat(1, 2, 1)[:, [0, 1, 4, 5, 2, 3, 6, 7]]  # two equal windows of a 2x4 grid
    age = torch.tensor([[9.0, 9.0, 0.0, 0.0, 9.0, 9.0, 0.0, 0.0]])
    plan = make("strategy", {"name": "sdtm", "ratio": 0.4}).plan(x, context((2, 4), signals={"age": age}))
    (merged,) = [group for group in as_groups(plan).values() if len(group) > 1]
    assert merged == {2, 3, 6, 7}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "sdtm", "phase": "late"}, "unknown phase 'late'"),
        ({"name": "sdtm", "keep": 1.5}, "keep"),
        ({"name": "sdtm", "whole_every": -1}, "whole_every"),
        ({"name": "imtome", "pool": 0.5}, "pool"),
        ({"name": "imtome", "phase": "x"}, "unknown phase"),
        ({"name": "dato", "noise": -1.0}, "noise"),
        ({"name": "toma", "sharpness": 0.0}, "sharpness"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(settings, said):
    with pytest.raises(ValueError, match=said) as raised:
        make("strategy", settings)
    assert "\n" not in str(raised.value)
