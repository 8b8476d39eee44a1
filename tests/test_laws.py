"""Laws of plans, whatever is combined: strategy, settings, signals, reduction, ratio, grid, dtype, size of numbers and batch."""

import pytest
import torch
from drawn import often, planned
from hypothesis import assume, given
from hypothesis import strategies as st
from test_strategies import assert_laws, plan_of

from mergekit_diff import MergePlan, SoftPlan, make

EXAMPLES = pytest.mark.parametrize("examples", [100, pytest.param(2000, marks=pytest.mark.nightly)])
ROUNDING = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 1e-5, torch.float64: 1e-9}
SMALL, LARGE = 256, 4096  # tokens at most: in CI, every night


def cases(examples, **more):
    return planned(SMALL if examples == 100 else LARGE, **more)


def rounding(plan, x):
    """Of tokens merged by a plan: that of their dtype or of the plan's weights, which are float32."""
    weight = plan.weight if isinstance(plan, MergePlan) else None
    return max(ROUNDING[x.dtype], 0 if weight is None else ROUNDING[weight.dtype])


@EXAMPLES
def test_a_plan_is_a_partition_or_soft_windows_that_merge_and_unmerge_respect(examples):
    @given(cases(examples))
    def law(case):
        spec, x, ctx = case
        plan = plan_of(spec, x, ctx)
        assert_laws(plan, x, rounding(plan, x))
        assert plan.num_tokens == x.shape[1] and plan.granted == pytest.approx(1 - plan.num_groups / x.shape[1])
        assert (plan.sizes > 0).all() and plan.rep.device == plan.merge(x).device == x.device
        assert isinstance(plan, SoftPlan) or plan.sizes.sum(-1).eq(x.shape[1]).all()

    often(law, examples)


@EXAMPLES
def test_finite_tokens_of_any_size_stay_finite_and_constants_stay_constant(examples):
    @given(cases(examples), st.sampled_from([1e-4, 1.0, 1e4]))
    def law(case, scale):
        spec, x, ctx = case
        x = x * scale
        plan = plan_of(spec, x, ctx)
        merged = plan.merge(x)
        whole = plan.unmerge(merged)
        assert merged.dtype == whole.dtype == plan.select(x).dtype == x.dtype
        assert merged.isfinite().all() and whole.isfinite().all()
        assert merged.shape == (len(x), plan.num_groups, 8) and whole.shape == x.shape
        flat, close = torch.ones_like(x), rounding(plan, x)
        torch.testing.assert_close(plan.merge(flat), torch.ones_like(merged), atol=close, rtol=close)
        torch.testing.assert_close(plan.unmerge(plan.merge(flat)), flat, atol=close, rtol=close)

    often(law, examples)


@EXAMPLES
def test_merging_what_was_unmerged_gives_the_same_whatever_the_order_of_groups(examples):
    @given(cases(examples), st.integers(0, 99))
    def law(case, seed):
        spec, x, ctx = case
        plan = plan_of(spec, x, ctx)
        assume(isinstance(plan, MergePlan))
        merged, close = plan.merge(x), rounding(plan, x)
        torch.testing.assert_close(plan.merge(plan.unmerge(merged)), merged, atol=close, rtol=close)
        order = torch.randperm(plan.num_groups, generator=torch.Generator().manual_seed(seed))
        shuffled = MergePlan(order[plan.assign], plan.rep[:, order.argsort()], plan.weight, plan.reduction)
        torch.testing.assert_close(shuffled.merge(x)[:, order], merged, atol=close, rtol=close)
        torch.testing.assert_close(shuffled.unmerge(shuffled.merge(x)), plan.unmerge(merged), atol=close, rtol=close)
        assert torch.equal(shuffled.select(x)[:, order], plan.select(x))
        assert torch.equal(shuffled.sizes[:, order], plan.sizes)

    often(law, examples)


@EXAMPLES
def test_the_same_tokens_have_the_same_plan_also_alone(examples):
    @given(cases(examples, dtypes=(torch.float64,)))  # no two of them are alike but for rounding
    def law(case):
        spec, x, ctx = case
        plan, again = plan_of(spec, x, ctx), plan_of(spec, x, ctx)
        assert torch.equal(plan.rep, again.rep) and torch.equal(plan.merge(x), again.merge(x))
        if not make("strategy", spec).batch_shared:
            alone = torch.cat([plan_of(spec, row[None], ctx).merge(row[None]) for row in x])
            torch.testing.assert_close(plan.merge(x), alone, atol=1e-9, rtol=1e-9)

    often(law, examples)
