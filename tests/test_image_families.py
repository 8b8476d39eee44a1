"""What is special in single families of image transformers: refusals, and text that runs through the same modules."""

from types import SimpleNamespace

import pytest
import torch
from test_families import Pairs, Recounted, relative
from tiny_families import H, W, build, predict
from tiny_family import randn

from mergekit_diff import gate, merging
from mergekit_diff.ledger import Place
from mergekit_diff.sites import find_sites


def test_captions_of_several_lengths_are_refused():
    model, inputs = build("lumina2", lengths=(5, 7))
    with pytest.raises(ValueError, match="captions of one length in a batch, got 5, 7"), merging(model, "retom"):
        predict(model, inputs)


@pytest.mark.parametrize("mode", ("extract", "cached"))
def test_a_cache_of_reference_images_is_refused(mode):
    model, inputs = build("flux2")
    with pytest.raises(ValueError, match=f"without a cache of their keys, got kv_cache_mode='{mode}'$"), merging(model, "retom"):
        predict(model, inputs | {"kv_cache_mode": mode})


def test_fused_projections_cannot_run_on_merged_tokens_but_their_keys_merge():
    model, inputs = build("flux2")
    with pytest.raises(ValueError, match="expected separate to_k, to_v, got fused ones"):
        merging(model, "retom", roles="key_value", rotary="before")
    outputs = []
    for rotary in ("values", "pick", "mean"):
        with merging(model, "retom", window=2, roles="key_value", rotary=rotary, strict=True):
            outputs.append(predict(model, inputs))
    assert all(relative(a, b) > 1e-6 for i, a in enumerate(outputs) for b in outputs[:i])


def test_images_that_are_patches_already_merge_the_same_way():
    model, inputs = build("hidream")
    tokens, masks, sizes, ids = model.patchify(inputs["hidden_states"])
    patches = {"hidden_states": tokens, "hidden_states_masks": masks, "img_sizes": sizes, "img_ids": ids}
    with merging(model, "retom", window=2, roles="block", strict=True) as session:
        expected = predict(model, inputs)
        session.new_image()
        assert torch.equal(predict(model, inputs | patches), expected)
        with pytest.raises(ValueError, match=r"expected images of one size in a batch, got \[\(8, 12\), \(12, 8\)\]$"):
            predict(model, inputs | patches | {"img_sizes": [(H, W), (W, H)]})


@pytest.mark.parametrize("role", ("self_attention", "key_value"))
def test_linear_attention_takes_no_log_sizes_and_says_so(role, quiet):
    model, inputs = build("sana")
    base = predict(model, inputs)
    with merging(model, "retom", window=2, roles=role, proportional=True) as session:
        predict(model, inputs)
        session.new_image()
        assert torch.equal(predict(model, inputs), base)
    assert all("left out: its attention does not call" in row["note"] for row in session.report().to_dicts())


@pytest.mark.parametrize(("name", "saves"), [("pixart", True), ("sana", False)])
def test_the_gate_knows_that_linear_attention_has_no_pairs_to_save(name, saves, tokens, monkeypatch):
    monkeypatch.setattr(gate, "speed", lambda *_: SimpleNamespace(linear=0.0, attention=1.0, call=0.0, move=0.0))
    site = find_sites(build(name)[0])[0]
    plan = Pairs().plan(tokens(1, 96), None)
    for role in ("self_attention", "key_value"):
        assert (gate.estimate(Place(site, (role,), 0), tokens(1, 96), plan, 0.0).saves > 0) is saves


def test_blocks_with_skip_connections_do_not_merge_as_a_whole():
    model, inputs = build("hunyuan_dit")
    with merging(model, "retom", window=2, roles="block", strict=True) as session:
        predict(model, inputs)
    calls = {row["site"]: (row["calls"], "joining its tokens" in row["note"]) for row in session.report().to_dicts()}
    assert calls == {"blocks.0": (1, False), "blocks.1": (1, False), "blocks.2": (1, False), "blocks.3": (0, True)}


def test_cross_attention_that_rotates_queries_has_one_plan_a_batch():
    model, inputs = build("hunyuan_dit")
    with merging(model, "retom", window=2, roles="cross_attention") as session:
        predict(model, inputs)
    plans = [plan for plan, _ in session.plans().values()]
    assert len(plans) == 4 and all((plan.assign == plan.assign[:1]).all() for plan in plans)


@pytest.mark.parametrize("words", (4, H * W, H * W + 24))
def test_a_feed_forward_that_also_reads_the_text_merges_the_image_alone(words):
    model, inputs = build("cogview4")
    inputs["encoder_hidden_states"] = randn(2, words, 16)
    seen = []
    with merging(model, "retom", window=2, roles="feed_forward"):
        for block in model.transformer_blocks:
            block.ff.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
        predict(model, inputs)
    assert seen == [H * W // 2, words] * 2


@pytest.mark.parametrize("name", ("aura_flow", "cogview3_plus", "cogview4", "flux2"))
@pytest.mark.parametrize("role", ("self_attention", "key_value", "feed_forward", "block"))
def test_a_text_as_long_as_the_grid_is_not_taken_for_it(name, role):
    model, inputs = build(name)
    inputs["encoder_hidden_states"] = randn(2, H * W, inputs["encoder_hidden_states"].shape[2])
    if "txt_ids" in inputs:
        inputs["txt_ids"] = torch.zeros(H * W, 4)
    with merging(model, "retom", ratio=0.5, window=2, roles=role, refresh=1) as session:
        expected = predict(model, inputs)
    with merging(model, Recounted(), roles=role):
        assert relative(predict(model, inputs), expected) < 2e-5
    assert all(row["granted"] == 0.5 for row in session.report().to_dicts() if row["calls"])
