"""Vision transformers: tokens in front of the patches stay, every call is a new image, and what cannot work is refused."""

import pytest
import torch
import transformers
from tiny_families import H, W, build, predict
from tiny_family import randn
from tiny_vision import EXACT, PATCH, SHAPE, SQUARE

from mergekit_diff import gate, merging
from mergekit_diff.sites import find_sites
from mergekit_diff.speed import Speed

IN_FRONT = {"vit": 1, "deit": 2, "dinov2": 1, "dinov2_registers": 4, "clip_vision": 1}
HEADS = {
    "ViTForImageClassification": EXACT,
    "ViTForMaskedImageModeling": SQUARE,
    "DeiTForImageClassification": EXACT,
    "DeiTForImageClassificationWithTeacher": EXACT,
    "DeiTForMaskedImageModeling": SQUARE,
    "Dinov2ForImageClassification": SQUARE,
    "Dinov2Backbone": SQUARE,
    "Dinov2WithRegistersForImageClassification": SQUARE,
    "Dinov2WithRegistersBackbone": SQUARE,
    "CLIPVisionModelWithProjection": SQUARE,
}


@pytest.mark.parametrize("name", IN_FRONT)
def test_tokens_in_front_of_the_patches_are_never_merged(name):
    model, inputs = build(name)
    part, front, seen = find_sites(model)[0].parts("self_attention")[0], IN_FRONT[name], []
    handle = part.register_forward_pre_hook(lambda _, args, kwargs: seen.append((*args, *kwargs.values())[0]), with_kwargs=True)
    predict(model, inputs)
    handle.remove()
    with merging(model, "retom", ratio=0.5, window=2, roles="self_attention"):
        handle = part.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append((*args, *kwargs.values())[0]), with_kwargs=True
        )
        predict(model, inputs)
    whole, merged = seen
    assert whole.shape[1] == front + H * W and merged.shape[1] == front + H * W // 2
    assert torch.equal(merged[:, :front], whole[:, :front]) and not torch.equal(
        merged[:, front:], whole[:, front : front + H * W // 2]
    )


@pytest.mark.parametrize("kind", HEADS)
def test_models_with_heads_are_merged_as_a_user_calls_them(kind):
    name = next(each for each in ("DeiT", "ViT", "Dinov2WithRegisters", "Dinov2", "CLIPVision") if kind.startswith(each))
    torch.manual_seed(0)
    model = getattr(transformers, kind)(
        getattr(transformers, f"{name}Config")(**SHAPE, **HEADS[kind], encoder_stride=PATCH)
    ).eval()
    side = (20, 20) if HEADS[kind] is SQUARE else (H * PATCH, W * PATCH)

    @torch.no_grad()
    def call():
        output = model(randn(2, 3, *side)).to_tuple()[0]
        return output[-1] if isinstance(output, tuple) else output

    base = call()
    with merging(model, "retom", ratio=0.5, window=2, roles=("self_attention", "feed_forward"), strict=True) as session:
        merged = call()
    assert session.report().granted == 0.5 and len(find_sites(model)) == 2
    assert merged.shape == base.shape and not torch.allclose(merged, base, rtol=1e-4) and torch.equal(call(), base)


@pytest.mark.parametrize("name", ("vit", "dinov2_registers"))
def test_every_call_is_a_new_image(name):
    model, inputs = build(name)
    with merging(model, "retom", ratio=0.5, window=2, roles="feed_forward", refresh=50) as session:
        first = predict(model, inputs)
        assert not torch.equal(predict(model, {"pixel_values": -inputs["pixel_values"]}), first)
        assert torch.equal(predict(model, inputs), first)
    assert {(row["calls"], row["plans"]) for row in session.report().to_dicts()} == {(3, 3)}


def test_images_of_other_sizes_have_grids_of_their_own():
    model, _ = build("dinov2")
    with merging(model, "retom", ratio=0.5, window=2, roles="self_attention") as session:
        for height, width in ((16, 24), (24, 16), (20, 20)):
            predict(model, {"pixel_values": randn(1, 3, height, width)})
            assert {grid for _, grid in session.plans().values()} == {(height // PATCH, width // PATCH)}


@pytest.mark.parametrize("role", ("key_value", "block"))
def test_compiled_and_eager_sessions_agree(role):
    torch._dynamo.reset()
    model, inputs = build("vit")
    with merging(model, "retom", ratio=0.5, window=2, roles=role) as session:
        expected = predict(model, inputs)
        session.compile(backend="aot_eager")
        for _ in range(2):
            torch.testing.assert_close(predict(model, inputs), expected, atol=1e-4, rtol=1e-4)
    torch._dynamo.reset()


@pytest.mark.parametrize("name", IN_FRONT)
def test_eager_attention_is_refused(name):
    model, _ = build(name)
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="expected attention 'sdpa', got 'eager'") as raised:
        merging(model, "retom")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ("vit", "dinov2", "clip_vision"))
def test_states_between_the_blocks_are_whole_or_refused(name):
    model, inputs = build(name)
    states = predict(model, inputs), model(**inputs, output_hidden_states=True).hidden_states
    with merging(model, "retom", window=2, roles=("self_attention", "feed_forward")):
        merged = model(**inputs, output_hidden_states=True).hidden_states
    assert [each.shape for each in merged] == [each.shape for each in states[1]] and torch.equal(merged[0], states[1][0])
    with pytest.raises(ValueError, match="expected no 'output_hidden_states'"), merging(model, "retom", roles="block"):
        model(**inputs, output_hidden_states=True)
    model.config.output_hidden_states = True
    with pytest.raises(ValueError, match="got 'block': the model returns the states between its blocks"):
        merging(model, "retom", roles="block")


def test_a_mask_of_patches_is_refused():
    model, inputs = build("vit")
    mask = torch.ones(2, 1 + H * W)
    mask[:, -5:] = 0
    with pytest.raises(ValueError, match="'attention_mask' has a value for every token"):
        with merging(model, "retom", roles="self_attention"):
            model(**inputs, attention_mask=mask)


def test_images_of_a_batch_are_no_halves_of_guidance():
    model, _ = build("vit")
    with pytest.raises(ValueError, match="share='cfg': expected a model that is guided"):
        merging(model, "retom", share="cfg")


def test_a_gate_decides_here_too(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(gate, "speed", lambda *_: Speed(linear=1.0, attention=1.0, move=0.0, call=0.0))
    model, inputs = build("vit")
    with merging(model, "retom", ratio=0.5, window=2, roles="self_attention", gate="auto") as session:
        predict(model, inputs)
    assert session.gates() and all(each["merges"] for each in session.gates().values()) and session.report().granted == 0.5
