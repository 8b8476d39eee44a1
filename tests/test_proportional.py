"""Proportional attention: on groups of equal tokens it is what attention over all tokens is."""

from dataclasses import dataclass

import pytest
import torch
from tiny import tiny_unet

from mergekit_diff import MergePlan, make, merging

N, M = 64, 24


@pytest.fixture(scope="module")
def attention():
    return tiny_unet().down_blocks[0].attentions[0].transformer_blocks[0].attn1


@pytest.fixture
def plan():
    """Groups of very different sizes, not the same in both rows."""
    draw = torch.Generator().manual_seed(0)
    target = torch.arange(N).repeat(2, 1)
    for row in target:
        kept = torch.randperm(N, generator=draw)[:M]
        merged = torch.tensor([t for t in range(N) if t not in kept])
        row[merged] = kept[(torch.rand(N - M, generator=draw) ** 3 * M).long()]
    return MergePlan.from_target(target, M)


@torch.no_grad()
def test_groups_of_equal_tokens_attend_as_all_their_tokens(attention, plan):
    y = torch.randn(2, M, 16, generator=torch.Generator().manual_seed(1))
    x = plan.unmerge(y)
    expected = attention(x)
    merged = plan.merge(x)
    assert not torch.allclose(plan.unmerge(attention(merged)), expected, atol=1e-3)
    torch.testing.assert_close(
        plan.unmerge(attention(merged, attention_mask=plan.sizes.log()[:, None])), expected, atol=1e-5, rtol=0
    )
    keys_only = attention(x, encoder_hidden_states=merged, attention_mask=plan.sizes.log()[:, None])
    torch.testing.assert_close(keys_only, expected, atol=1e-5, rtol=0)


def test_sizes_count_the_tokens_of_every_group(plan):
    sizes = torch.stack([row.bincount(minlength=M) for row in plan.assign])
    assert torch.equal(plan.sizes, sizes.float())


@pytest.mark.parametrize("roles", [("self_attention",), ("key_value",), ("self_attention", "key_value", "feed_forward")])
def test_a_session_hands_on_the_sizes_of_the_keys(roles):
    unet, seen = tiny_unet(), []
    block = unet.down_blocks[0].attentions[0].transformer_blocks[0]
    strategy = make("strategy", {"name": "retom", "ratio": {"name": "by-role", "key_value": 0.75, "others": 0.5}})
    draw = torch.Generator().manual_seed(0)
    sample, text = torch.randn(2, 4, 16, 16, generator=draw), torch.randn(2, 6, 32, generator=draw)
    with torch.no_grad(), merging(unet, strategy, roles=roles, proportional=True) as session:
        block.attn1.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True)
        unet(sample, 500, text)
        granted = {row["role"]: row["granted"] for row in session.report().to_dicts() if row["grid"] == (16, 16)}
    keys = 64 if "key_value" in roles else 128
    assert seen[0].shape == (2, 1, keys)
    torch.testing.assert_close(seen[0].exp().sum(-1), torch.full((2, 1), 256.0))
    assert granted == {role: 0.75 if role == "key_value" else 0.5 for role in roles}


def test_merging_without_it_hands_on_nothing():
    unet, seen = tiny_unet(), []
    unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs.get("attention_mask")), with_kwargs=True
    )
    with torch.no_grad(), merging(unet, "retom"):
        unet(torch.randn(2, 4, 16, 16), 500, torch.randn(2, 6, 32))
    assert seen == [None]


def test_half_precision_gets_its_own_bias():
    unet = tiny_unet().to(torch.bfloat16)
    with torch.no_grad(), merging(unet, "retom", proportional=True):
        out = unet(torch.randn(2, 4, 16, 16).bfloat16(), 500, torch.randn(2, 6, 32).bfloat16()).sample
    assert out.dtype == torch.bfloat16 and out.isfinite().all()


def test_none_takes_the_default_of_the_strategy_and_a_wrapper_that_of_its_inner_one(registry):
    @registry.register("weighs-sizes")
    @dataclass(frozen=True)
    class WeighsSizes(type(make("strategy", "retom-paper"))):
        proportional = True
        share = ("cfg",)

    wrapped = make("strategy", {"name": "dynamic-ratio", "inner": "weighs-sizes"})
    cases = [("weighs-sizes", None, True), (wrapped, None, True), (wrapped, False, False), ("retom-paper", None, None)]
    for strategy, chosen, expected in cases:
        with merging(tiny_unet(), strategy, proportional=chosen) as session:
            session.remove_hooks()
        assert session.options.proportional is expected
        assert session.options.share == (() if strategy == "retom-paper" else ("cfg",))


@pytest.mark.parametrize("wrong", ["yes", 1, 0.5])
def test_anything_but_true_false_or_none_is_refused(wrong):
    refused = pytest.raises(ValueError, match="expected proportional to be True, False or None")
    with refused, merging(tiny_unet(), "retom", proportional=wrong):
        pass
