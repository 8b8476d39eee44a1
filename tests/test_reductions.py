"""Reductions against loops written from their formulas, and the laws of the plans that use them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plan import CLOSE, partitions, shares, slow_merge

from mergekit_diff import MergePlan, make, merging, names
from mergekit_diff.reductions import Mean, Mlerp, Pick


def slow_mlerp(target, x, weight=None):
    """The mean of every group, times the largest norm of its members over its own norm."""
    mean = slow_merge(target, x, weight)
    for b, row in enumerate(target.tolist()):
        for m, rep in enumerate(sorted(set(row))):
            members = [i for i, t in enumerate(row) if t == rep]
            mean[b, m] *= max(x[b, i].norm() for i in members) / mean[b, m].norm()
    return mean


@settings(deadline=None, max_examples=60)
@given(partitions(), st.integers(0, 5), st.booleans())
def test_mlerp_is_the_mean_with_the_largest_norm_of_the_group(partition, seed, weighted):
    target, groups = partition
    x = torch.randn(*target.shape, 3, generator=torch.Generator().manual_seed(seed))
    weight = shares(target, seed) if weighted else None
    y = MergePlan.from_target(target, groups, weight, Mlerp()).merge(x)
    torch.testing.assert_close(y, slow_mlerp(target, x, weight), atol=1e-5, rtol=1e-5)


def test_the_norm_of_the_destination_counts_in_mlerp():
    x = torch.tensor([[[3.0, 4.0], [0.0, 1.0], [1.0, 0.0]]])
    y = MergePlan.from_target(torch.tensor([[0, 0, 2]]), 2, reduction=Mlerp()).merge(x)
    torch.testing.assert_close(y.norm(dim=-1), torch.tensor([[5.0, 1.0]]))


@pytest.mark.parametrize("length", [1.0, 10.0, 1e20])
def test_mlerp_of_opposite_tokens_is_zero_and_finite(length):
    x = torch.tensor([[[length, 0.0], [-length, 0.0]]])
    assert torch.equal(MergePlan.from_target(torch.tensor([[0, 0]]), 1, reduction=Mlerp()).merge(x), torch.zeros(1, 1, 2))


@settings(deadline=None, max_examples=60)
@given(partitions())
def test_pick_is_the_representative_to_the_bit(partition):
    target, groups = partition
    x = torch.randn(*target.shape, 3)
    plan = MergePlan.from_target(target, groups, reduction=Pick())
    assert torch.equal(plan.merge(x), plan.select(x))


@pytest.mark.parametrize("name", names("reduction"))
@settings(deadline=None, max_examples=30)
@given(partition=partitions())
def test_merging_what_was_unmerged_changes_nothing(name, partition):
    target, groups = partition
    plan = MergePlan.from_target(target, groups, reduction=make("reduction", name))
    y = torch.randn(len(target), groups, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(plan.merge(plan.unmerge(y)), y, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("name", names("reduction"))
def test_a_reduction_keeps_the_dtype_of_the_tokens(name, dtype):
    x = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    y = MergePlan.from_target(torch.tensor([[0, 0, 2, 0]]), 2, reduction=make("reduction", name)).merge(x)
    assert y.dtype == dtype and y.isfinite().all()


@pytest.mark.parametrize("name", names("reduction"))
def test_gradients_pass_through_a_reduction(name):
    plan = MergePlan.from_target(torch.tensor([[0, 0, 2, 0, 2]]), 2, reduction=make("reduction", name))
    assert torch.autograd.gradcheck(plan.merge, torch.randn(1, 5, 3, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("name", ("retom", "random-dest", "tomesd", "local-match"))
def test_the_reduction_is_a_setting_that_reaches_the_plan(name, context, tokens):
    for reduction in (Mean(), Pick(), Mlerp()):
        strategy = make("strategy", {"name": name, "reduction": reduction.name})
        assert strategy.plan(tokens(2, 64), context((8, 8))).reduction == reduction


def test_alpha_has_no_meaning_without_a_mean():
    for name in ("retom", "random-dest"):
        with pytest.raises(ValueError, match=r"alpha.*pick"):
            make("strategy", {"name": name, "alpha": 0.5, "reduction": "pick"})


@pytest.mark.parametrize("reduction", names("reduction"))
def test_sessions_merge_with_every_reduction(reduction, unet, latents, predict):
    base = predict(unet, latents())
    with merging(unet, "retom", reduction=reduction):
        assert not torch.equal(predict(unet, latents()), base)
