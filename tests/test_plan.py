"""A merge plan against a slow loop over groups, on random partitions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergekit_diff import MergePlan
from mergekit_diff.plan import pick, top

CLOSE = {
    torch.float64: {"atol": 1e-12, "rtol": 1e-12},
    torch.float32: {"atol": 1e-6, "rtol": 1e-6},
    torch.bfloat16: {"atol": 3e-2, "rtol": 3e-2},
    torch.float16: {"atol": 4e-3, "rtol": 4e-3},
}


@st.composite
def partitions(draw):
    """A batch of targets with one number of groups, and that number."""
    n = draw(st.integers(1, 24))
    groups = draw(st.integers(1, n))
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        reps = draw(st.permutations(range(n)))[:groups]
        rows.append([i if i in reps else draw(st.sampled_from(reps)) for i in range(n)])
    return torch.tensor(rows), groups


def shares(target, seed=0):
    """Positive random shares that sum to one in every group."""
    raw = torch.rand(target.shape, generator=torch.Generator().manual_seed(seed)) + 0.1
    total = torch.zeros_like(raw).scatter_add_(1, target, raw)
    return raw / total.gather(1, target)


def slow_merge(target, x, weight=None):
    """Group by group, in the order of the tokens that stand for them."""
    rows = []
    for b, row in enumerate(target.tolist()):
        merged = []
        for rep in sorted(set(row)):
            members = [i for i, t in enumerate(row) if t == rep]
            share = [1 / len(members)] * len(members) if weight is None else [float(weight[b, i]) for i in members]
            merged.append(sum(s * x[b, i] for s, i in zip(share, members, strict=True)))
        rows.append(torch.stack(merged))
    return torch.stack(rows)


def slow_unmerge(target, y):
    rows = []
    for b, row in enumerate(target.tolist()):
        order = sorted(set(row))
        rows.append(torch.stack([y[b, order.index(t)] for t in row]))
    return torch.stack(rows)


@settings(deadline=None, max_examples=60)
@given(partitions())
def test_plan_merges_unmerges_and_selects_as_a_loop_over_groups(partition):
    target, groups = partition
    x = torch.randn(*target.shape, 3, generator=torch.Generator().manual_seed(0))
    plan = MergePlan.from_target(target, groups)
    y = plan.merge(x)
    assert (plan.num_tokens, plan.num_groups, plan.granted) == (target.shape[1], groups, 1 - groups / target.shape[1])
    torch.testing.assert_close(y, slow_merge(target, x), atol=1e-6, rtol=1e-6)
    assert torch.equal(plan.unmerge(y), slow_unmerge(target, y))
    kept = torch.stack([x[b, sorted(set(row))] for b, row in enumerate(target.tolist())])
    assert torch.equal(plan.select(x), kept)


@settings(deadline=None, max_examples=60)
@given(partitions(), st.integers(0, 5))
def test_weighted_plan_merges_as_a_loop_over_groups(partition, seed):
    target, groups = partition
    x = torch.randn(*target.shape, 3, generator=torch.Generator().manual_seed(seed))
    weight = shares(target, seed)
    plan = MergePlan.from_target(target, groups, weight)
    torch.testing.assert_close(plan.merge(x), slow_merge(target, x, weight), atol=1e-6, rtol=1e-6)
    y = torch.randn(len(target), groups, 3, generator=torch.Generator().manual_seed(seed + 1))
    torch.testing.assert_close(plan.merge(plan.unmerge(y)), y, atol=1e-6, rtol=1e-6)


@settings(deadline=None, max_examples=60)
@given(partitions())
def test_from_target_is_a_partition_with_its_representatives(partition):
    target, groups = partition
    plan = MergePlan.from_target(target, groups)
    assert plan.assign.dtype == plan.rep.dtype == torch.int64
    assert torch.equal(plan.assign.gather(1, plan.rep), torch.arange(groups).expand(len(target), -1))
    assert torch.equal(plan.rep.gather(1, plan.assign), target)


def groups_in_any_order():
    """A plan made by hand: its groups are not in the order of their tokens."""
    assign = torch.tensor([[2, 0, 2, 1, 0, 0], [1, 1, 0, 2, 0, 2]])
    rep = torch.tensor([[4, 3, 0], [4, 1, 5]])
    return MergePlan(assign, rep)


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
def test_plan_made_by_hand_averages_its_groups_in_every_dtype(dtype):
    plan = groups_in_any_order()
    x = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    y = plan.merge(x)
    assert y.dtype == dtype and plan.unmerge(y).dtype == dtype and plan.select(x).dtype == dtype
    expected = torch.stack([x[0, [1, 4, 5]].double().mean(0), x[0, [3]].double().mean(0), x[0, [0, 2]].double().mean(0)])
    torch.testing.assert_close(y[0].double(), expected, **CLOSE[dtype])
    assert torch.equal(plan.select(x)[1], x[1, [4, 1, 5]])
    assert torch.equal(plan.unmerge(y)[1], y[1, [1, 1, 0, 2, 0, 2]])


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
def test_weighted_plan_keeps_the_dtype_of_the_tokens(dtype):
    target = torch.tensor([[0, 0, 2, 0]])
    weight = torch.tensor([[0.5, 0.25, 1.0, 0.25]])
    x = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    y = MergePlan.from_target(target, 2, weight).merge(x)
    assert y.dtype == dtype
    expected = 0.5 * x[0, 0].double() + 0.25 * x[0, 1].double() + 0.25 * x[0, 3].double()
    torch.testing.assert_close(y[0, 0].double(), expected, **CLOSE[dtype])


@pytest.mark.parametrize("weight", (None, torch.full((1, 14), 1 / 14)), ids=("plain", "weighted"))
def test_mean_of_large_half_precision_tokens_does_not_overflow(weight):
    x = torch.full((1, 14, 2), 60000.0, dtype=torch.float16)
    plan = MergePlan(torch.zeros(1, 14, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long), weight)
    torch.testing.assert_close(plan.merge(x), x[:, :1], atol=0, rtol=1e-3)


def test_plan_of_one_row_serves_every_batch():
    target = torch.tensor([[0, 0, 2, 2, 4]])
    for weight in (None, shares(target)):
        one = MergePlan.from_target(target, 3, weight)
        for batch in (1, 3, 2, 3):
            x = torch.randn(batch, 5, 4)
            many = MergePlan.from_target(target.repeat(batch, 1), 3, None if weight is None else weight.repeat(batch, 1))
            y = one.merge(x)
            assert torch.equal(y, many.merge(x))
            assert torch.equal(one.unmerge(y), many.unmerge(y))
            assert torch.equal(one.select(x), many.select(x))


def test_repeated_plan_serves_the_repeated_batch():
    plan = groups_in_any_order()
    x = torch.randn(2, 6, 4)
    twice = plan.repeat(2)
    assert torch.equal(twice.merge(torch.cat([x, x])), torch.cat([plan.merge(x)] * 2))
    weighted = MergePlan.from_target(torch.tensor([[0, 0, 2]]), 2, torch.tensor([[0.9, 0.1, 1.0]]))
    assert torch.equal(weighted.repeat(2).weight, torch.tensor([[0.9, 0.1, 1.0]] * 2))


def test_plan_reads_tokens_that_are_not_contiguous():
    plan = groups_in_any_order()
    x = torch.randn(2, 4, 6).mT
    assert not x.is_contiguous()
    assert torch.equal(plan.merge(x), plan.merge(x.contiguous()))
    assert torch.equal(plan.select(x), plan.select(x.contiguous()))
    y = torch.randn(2, 4, 3).mT
    assert torch.equal(plan.unmerge(y), plan.unmerge(y.contiguous()))


def test_gradients_of_merge_unmerge_and_select_are_right():
    target = torch.tensor([[0, 0, 2, 0, 2], [1, 1, 1, 1, 4]])
    for weight in (None, shares(target).double()):
        plan = MergePlan.from_target(target, 2, weight)
        x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
        y = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(plan.merge, x)
        assert torch.autograd.gradcheck(plan.select, x)
        assert torch.autograd.gradcheck(plan.unmerge, y)


def test_comparing_plans_never_raises_and_a_plan_equals_itself_alone():
    plan, other = groups_in_any_order(), groups_in_any_order()
    assert plan == plan and plan != other and len({plan, plan, other}) == 2
    assert plan.ready(2) != plan.ready(2)


@settings(deadline=None, max_examples=30)
@given(partitions(), st.integers(1, 3))
def test_a_ready_plan_does_what_its_plan_does(partition, times):
    target, groups = partition
    for weight in (None, shares(target)):
        plan = MergePlan.from_target(target, groups, weight)
        ready, batch = plan.ready(times * len(target)), times * len(target)
        x = torch.randn(*target.shape, 3).repeat(times, 1, 1)
        y = ready.merge(x)
        assert (ready.num_tokens, ready.num_groups, ready.batch) == (plan.num_tokens, plan.num_groups, batch)
        assert torch.equal(y, plan.repeat(times).merge(x))
        assert torch.equal(ready.unmerge(y), plan.repeat(times).unmerge(y))
        assert torch.equal(ready.select(x), plan.repeat(times).select(x))
        sizes = torch.stack([row.bincount(minlength=groups) for row in plan.assign])
        assert torch.equal(plan.sizes, sizes.float()) and torch.equal(ready.sizes, sizes.float().repeat(times, 1))


def test_plan_cannot_be_changed():
    plan = groups_in_any_order()
    with pytest.raises(AttributeError):
        plan.weight = torch.ones(2, 6)


@pytest.mark.parametrize(
    ("assign", "rep", "weight"),
    [
        ((6,), (3,), None),
        ((2, 6), (1, 3), None),
        ((2, 6), (2, 3, 1), None),
        ((2, 6), (2, 3), (2, 5)),
        ((2, 6), (2, 3), (1, 6)),
    ],
)
def test_plan_whose_shapes_do_not_fit_is_refused(assign, rep, weight):
    long = torch.long
    with pytest.raises(ValueError, match=r"expected assign \(B, N\), rep \(B, M\) and weight") as raised:
        MergePlan(torch.zeros(assign, dtype=long), torch.zeros(rep, dtype=long), None if weight is None else torch.zeros(weight))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("shape", [(2, 5, 4), (3, 6, 4), (1, 6, 4), (2, 6), (6, 4)])
def test_tokens_that_the_plan_was_not_made_for_are_refused(shape):
    plan = groups_in_any_order()
    for apply in (plan.merge, plan.select):
        with pytest.raises(ValueError, match=r"expected tokens \(2, 6, C\) for this plan"):
            apply(torch.zeros(shape))


def test_unmerge_refuses_another_number_of_groups():
    with pytest.raises(ValueError, match=r"expected tokens \(2, 3, C\) for this plan, got \(2, 6, 4\)"):
        groups_in_any_order().unmerge(torch.zeros(2, 6, 4))


def test_top_marks_exactly_as_many_also_where_values_tie():
    assert top(torch.tensor([[1.0, 3.0, 2.0, 0.0]]), 2).tolist() == [[False, True, True, False]]
    assert top(torch.zeros(2, 3, 5), 3).sum(-1).eq(3).all()
    assert not top(torch.zeros(2, 4), 0).any()


def test_pick_reads_the_last_axis_by_index():
    values = torch.arange(12.0).view(2, 2, 3)
    assert pick(values, torch.tensor([[2], [0]])).squeeze(-1).tolist() == [[2.0, 3.0], [8.0, 9.0]]
