"""Strategies that evict: what is kept, and that nothing of what is dropped is left."""

import pytest
import torch
from tiny_language import build, logits, prompt

from mergekit_diff import make, merging

WHOLE = (2, 3)


def cached(model, text, strategy, ratio=0.5):
    """Layers of a cache of the whole text, each with what eviction leaves of it; the first ones have read the same."""
    _, base = logits(model, text)
    with merging(model, strategy, ratio=ratio, whole=WHOLE, strict=True):
        _, cache = logits(model, text)
    return list(zip(base.layers, cache.layers, strict=True))


@pytest.mark.parametrize("ratio, held", [(0.25, 26), (0.5, 19), (0.99, 6)])
def test_streaming_keeps_the_first_and_the_newest_keys(ratio, held):
    kept = [0, 1, *range(33 - held + 2, 33)]
    first, layer = cached(build("llama"), prompt(33), "streaming", ratio)[0]
    assert layer.keys.shape[-2] == held
    torch.testing.assert_close(layer.keys, first.keys[:, :, kept])
    torch.testing.assert_close(layer.values, first.values[:, :, kept])


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_knorm_keeps_the_keys_of_the_smallest_norms(name):
    model = build(name)
    first, layer = cached(model, prompt(45), "knorm")[0]
    middle = slice(WHOLE[0], 45 - WHOLE[1])
    if name == "llama":  # rotation leaves norms as they are; Qwen3 norms its keys before they are cached
        norms = first.keys[0, :, middle].norm(dim=-1).mean(0)
        kept = norms.topk(20, largest=False).indices.sort().values + WHOLE[0]
        index = [0, 1, *kept.tolist(), 42, 43, 44]
        torch.testing.assert_close(layer.keys, first.keys[:, :, index])
        torch.testing.assert_close(layer.values, first.values[:, :, index])
    assert layer.keys.shape[-2] == 25


@pytest.mark.parametrize("strategy", ["knorm", "streaming"])
def test_what_is_kept_has_no_size(strategy):
    model, text = build("llama"), prompt(40)
    with merging(model, strategy, whole=WHOLE):
        _, cache = logits(model, text)
        assert not any(layer.sized for layer in cache.layers)


@pytest.mark.parametrize("strategy", ["knorm", "streaming"])
def test_at_least_one_token_is_kept_for_any_ratio(strategy, context):
    x = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
    for ratio, groups in ((0.0, 9), (0.5, 5), (0.999, 1)):
        ctx = context((9,), signals={"key_norm": x.norm(dim=-1)})
        plan = make("strategy", {"name": strategy, "ratio": ratio}).plan(x, ctx)
        assert plan.num_groups == groups and torch.equal(plan.assign.gather(1, plan.rep), torch.arange(groups).expand(2, -1))
