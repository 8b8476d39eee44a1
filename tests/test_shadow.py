"""A block that runs a second time without merging gives the model its own output, and tells what merging changed."""

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from tiny_families import FAMILIES, build, predict
from tiny_family import Pairs, changed, strengthened
from tiny_language import llama

from mergekit_diff import merging
from mergekit_diff.sites import ROLES

CELLS = [(name, role) for name, tiny in FAMILIES.items() for role in ROLES if role not in tiny.lacking]


@pytest.mark.parametrize(("name", "role"), CELLS)
def test_the_output_is_the_models_own_and_every_layer_is_compared(name, role):
    model, inputs = build(name)
    model = strengthened(model)
    base, seen = predict(model, inputs), {}
    with merging(model, Pairs(), roles=role) as session:
        session.shadow(lambda site, x, merged, whole: seen.setdefault(site, (x, merged, whole)))
        assert torch.equal(predict(model, inputs), base)
    assert set(seen) == {row["site"] for row in session.report().to_dicts() if row["calls"]}
    for x, merged, whole in seen.values():
        assert x.shape[:2] == merged.shape[:2] == whole.shape[:2]
        assert not torch.equal(merged, whole)
    assert torch.equal(predict(model, inputs), base)


def test_the_first_layer_is_compared_with_what_merging_alone_makes_of_it():
    model, inputs = build("pixart")
    model, outputs, seen = strengthened(model), [], []

    def watched():
        return model.transformer_blocks[0].register_forward_hook(lambda module, args, output: outputs.append(output))

    handle = watched()
    predict(model, inputs)
    handle.remove()
    with merging(model, Pairs(), roles="self_attention"):
        handle = watched()  # after the session's own hooks
        predict(model, inputs)
        handle.remove()
    with merging(model, Pairs(), roles="self_attention") as session:
        session.shadow(lambda site, x, merged, whole: seen.append((merged, whole)))
        predict(model, inputs)
    whole, merged = outputs
    assert torch.equal(seen[0][0], merged) and torch.equal(seen[0][1], whole)


def test_nothing_is_compared_where_nothing_merges():
    (model, inputs), seen = build("pixart"), []
    with pytest.warns(UserWarning, match="no token was merged"), merging(model, "retom", ratio=0) as session:
        session.shadow(lambda *_: seen.append(1))
        predict(model, inputs)
    assert not seen


def test_what_cannot_run_twice_is_refused_in_one_line():
    flux, _ = build("flux")
    with merging(changed(flux, num_single_layers=2), Pairs(), roles="block", span=2) as session:
        with pytest.raises(
            RuntimeError, match="expected a session whose blocks merge one by one, run eagerly and only once, got span=2"
        ):
            session.shadow(lambda *_: None)
        session.remove_hooks()
    with merging(llama(), Pairs()) as session:
        with pytest.raises(RuntimeError, match="got a cache of keys"):
            session.shadow(lambda *_: None)
        session.remove_hooks()


def test_a_session_is_either_compiled_or_runs_its_blocks_twice_and_that_only_once():
    model, inputs = build("pixart")
    with merging(model, Pairs()) as session:
        session.shadow(lambda *_: None)
        with pytest.raises(RuntimeError, match="got one that does so already"):
            session.shadow(lambda *_: None)
        with pytest.raises(RuntimeError, match="this session is one whose blocks run a second time"):
            session.compile()
        predict(model, inputs)
    with merging(model, Pairs()) as session:
        session.compile()
        with pytest.raises(RuntimeError, match="got a compiled one"):
            session.shadow(lambda *_: None)
        session.remove_hooks()


def test_a_block_whose_output_a_cache_reuses_cannot_run_twice():
    model, inputs = build("flux")
    with merging(model, Pairs(), roles="feed_forward") as session:
        session.shadow(lambda *_: None)
        model.enable_cache(FirstBlockCacheConfig(threshold=0.1))
        with (
            pytest.raises(RuntimeError, match="expected a block that can run twice in a step, got one with FBC"),
            model.cache_context("a"),
        ):
            predict(model, inputs)
        model.disable_cache()
        session.remove_hooks()
