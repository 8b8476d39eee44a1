"""Merging in whole pipelines, beside the other things that people do to their models."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection
from tiny import tiny_unet
from torch import nn

from mergekit_diff import make, merging
from mergekit_diff.experiments.study.rehearsal import planning_for

STRATEGIES = planning_for(2)
ROLES = ("self_attention", "key_value", "cross_attention", "feed_forward")


@pytest.mark.parametrize("name", STRATEGIES)
def test_same_seed_gives_same_image_and_leaving_gives_the_base_image(name, pipe, draw):
    base = draw(pipe)
    with merging(pipe, name, ratio=0.5, strict=True):
        first = draw(pipe)
        draw(pipe, seeds=1)
        second = draw(pipe)
    with merging(pipe, name, ratio=0.5):
        third = draw(pipe)
    assert (first == second).all() and (first == third).all()
    assert not (first == base).all()
    assert (draw(pipe) == base).all()


@pytest.mark.parametrize("name", [name for name in STRATEGIES if not make("strategy", name).batch_shared])
def test_image_is_the_same_alone_or_in_a_batch(name, pipe, draw):
    prompts, seeds = ["a noto apple", "a 3d cat", "a flat house"], [3, 4, 5]
    with merging(pipe, name, ratio=0.5):
        together = draw(pipe, prompts, seeds)
        for i in (0, 2):
            alone = draw(pipe, prompts[i], seeds[i])
            np.testing.assert_allclose(alone[0], together[i], atol=1e-4)


def test_global_generator_is_untouched_by_a_whole_image(pipe, draw):
    torch.manual_seed(1)
    draw(pipe)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    with merging(pipe, "tomesd", ratio=0.5):
        draw(pipe)
    assert torch.equal(torch.get_rng_state(), state)


def test_rectangular_image_merges(pipe, draw):
    with merging(pipe, "retom", ratio=0.5, strict=True) as session:
        assert draw(pipe, height=24, width=40).shape == (1, 24, 40, 3)
    assert {grid for _, grid in session.plans().values()} == {(12, 20), (6, 10)}


def test_image_to_image_merges(pipe):
    image_to_image = diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    image_to_image.set_progress_bar_config(disable=True)
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def image():
        generator = torch.Generator().manual_seed(0)
        return image_to_image(
            "a noto apple", image=picture, num_inference_steps=4, strength=0.5, generator=generator, output_type="np"
        ).images

    base = image()
    with merging(image_to_image, "retom", ratio=0.5, strict=True):
        merged = image()
        assert (image() == merged).all()
    assert not (merged == base).all() and (image() == base).all()


def test_guidance_off_and_on_in_one_session(pipe, draw):
    with merging(pipe, "retom", ratio=0.5):
        one = draw(pipe, guidance_scale=1.0)
        two = draw(pipe, guidance_scale=5.0)
        assert (draw(pipe, guidance_scale=1.0) == one).all() and (draw(pipe, guidance_scale=5.0) == two).all()


class LowRank(nn.Module):
    """A linear layer with low-rank weights beside its own, as LoRA wraps it."""

    def __init__(self, inner, rank=2):
        super().__init__()
        self.inner = inner
        self.down = nn.Linear(inner.in_features, rank, bias=False)
        self.up = nn.Linear(rank, inner.out_features, bias=False)

    def forward(self, x):
        return self.inner(x) + self.up(self.down(x))


def test_low_rank_weights_keep_working_and_are_trained_through_merging(unet, latents, predict):
    inputs = latents()
    with merging(unet, "retom", ratio=0.5):
        plain = predict(unet, inputs)
    torch.manual_seed(2)
    unet.requires_grad_(False)
    added = []
    for block in unet.modules():
        if type(block).__name__ == "BasicTransformerBlock":
            block.attn1.to_q = LowRank(block.attn1.to_q)
            added += [block.attn1.to_q.down.weight, block.attn1.to_q.up.weight]
    base = predict(unet, inputs)
    with merging(unet, "retom", ratio=0.5, strict=True):
        merged = predict(unet, inputs)
        unet(**inputs).sample.square().mean().backward()
    assert not torch.equal(merged, plain) and not torch.equal(merged, base)
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in added)
    assert torch.equal(predict(unet, inputs), base)


def test_low_rank_weights_put_on_inside_a_session_are_used(unet, latents, predict):
    torch.manual_seed(2)
    with merging(unet, "retom", ratio=0.5) as session:
        before = predict(unet, latents())
        session.new_image()
        attn = unet.mid_block.attentions[0].transformer_blocks[0].attn1
        attn.to_q = LowRank(attn.to_q)
        assert not torch.equal(predict(unet, latents()), before)


@pytest.mark.parametrize("roles", (("self_attention",), ROLES))
def test_attention_slicing_gives_the_same_merged_image(roles, pipe, draw):
    with merging(pipe, "retom", ratio=0.5, roles=roles):
        whole = draw(pipe)
    pipe.enable_attention_slicing(1)
    with merging(pipe, "retom", ratio=0.5, roles=roles, strict=True):
        sliced = draw(pipe)
    np.testing.assert_allclose(sliced, whole, atol=1e-4)


class Scaled(AttnProcessor):
    """An attention processor of a user's own, that takes a keyword argument of its own."""

    def __init__(self):
        self.tokens = []

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, strength=1.0):
        self.tokens.append(hidden_states.shape[1])
        return strength * super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


def test_own_attention_processor_keeps_working(unet, latents, predict):
    inputs = latents()
    with merging(unet, "retom", ratio=0.5):
        expected = predict(unet, inputs)
    processor = Scaled()
    unet.set_attn_processor(processor)
    with merging(unet, "retom", ratio=0.5, strict=True) as session:
        torch.testing.assert_close(predict(unet, inputs), expected, atol=1e-5, rtol=1e-5)
        assert set(processor.tokens) == {256, 128, 64, 32}
        session.new_image()
        weaker = predict(unet, inputs | {"cross_attention_kwargs": {"strength": 0.5}})
    assert not torch.allclose(weaker, expected, atol=1e-5)
    assert all(p is processor for p in unet.attn_processors.values())


def with_image_prompt(unet):
    """The U-Net with IP-Adapter processors on its cross-attention, all weights random."""
    torch.manual_seed(3)
    processors = {}
    for name, processor in unet.attn_processors.items():
        if name.endswith("attn2.processor"):
            width = unet.get_submodule(name.removesuffix(".processor")).to_q.in_features
            processors[name] = IPAdapterAttnProcessor2_0(width, cross_attention_dim=32, num_tokens=(4,))
        else:
            processors[name] = processor
    unet.set_attn_processor(processors)
    projection = ImageProjection(image_embed_dim=8, cross_attention_dim=32, num_image_text_embeds=4)
    unet.encoder_hid_proj = MultiIPAdapterImageProjection([projection])
    unet.config.encoder_hid_dim_type = "ip_image_proj"
    return unet


@pytest.mark.parametrize("roles", (("self_attention",), ROLES))
def test_image_prompts_keep_working(roles, latents, predict):
    unet = with_image_prompt(tiny_unet())
    inputs = latents() | {"added_cond_kwargs": {"image_embeds": [torch.ones(2, 1, 8)]}}
    other = inputs | {"added_cond_kwargs": {"image_embeds": [-torch.ones(2, 1, 8)]}}
    base = predict(unet, inputs)
    with merging(unet, "retom", ratio=0.5, roles=roles, strict=True) as session:
        merged = predict(unet, inputs)
        session.new_image()
        assert not torch.equal(predict(unet, other), merged)
    assert merged.shape == base.shape and not torch.equal(merged, base)
    assert torch.equal(predict(unet, inputs), base)


def test_mask_of_an_image_prompt_is_refused_where_its_tokens_merge(latents, predict):
    unet = with_image_prompt(tiny_unet())
    inputs = latents() | {
        "added_cond_kwargs": {"image_embeds": [torch.ones(2, 1, 8)]},
        "cross_attention_kwargs": {"ip_adapter_masks": [torch.ones(1, 1, 16, 16)]},
    }
    predict(unet, inputs)
    with pytest.raises(ValueError, match="'ip_adapter_masks' has a value for every token"):
        with merging(unet, "retom", roles="cross_attention"):
            predict(unet, inputs)


def test_controlnet_and_denoiser_of_one_pipeline_merge_together(pipe):
    torch.manual_seed(4)
    controlnet = diffusers.ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(8, 8))
    guided = diffusers.StableDiffusionControlNetPipeline(**pipe.components, controlnet=controlnet, requires_safety_checker=False)
    guided.set_progress_bar_config(disable=True)
    hint = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def image():
        generator = torch.Generator().manual_seed(0)
        return guided("a noto apple", image=hint, num_inference_steps=2, generator=generator, output_type="np").images

    base = image()
    with merging(guided, "retom", ratio=0.5, strict=True), merging(controlnet, "retom", ratio=0.5, strict=True) as session:
        assert not (image() == base).all()
    assert {row["calls"] for row in session.report().to_dicts()} == {2}
    assert (image() == base).all()


@pytest.mark.parametrize("name", STRATEGIES)
def test_gradients_reach_every_weight_through_merging(name, unet, latents):
    with merging(unet, name, ratio=0.5, strict=True, roles=ROLES):
        unet(**latents()).sample.square().mean().backward()
    for weight_name, weight in unet.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), weight_name
    merged = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1
    assert all(weight.grad.abs().sum() > 0 for weight in (merged.to_q.weight, merged.to_k.weight, merged.to_v.weight))


def test_gradient_of_the_input_is_the_slope_of_the_loss(latents, recorder):
    strategy, _ = recorder
    unet = tiny_unet().double()
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in latents(h=8, w=8).items()}
    x = inputs["sample"].requires_grad_()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss(sample):
        return unet(**(inputs | {"sample": sample})).sample.square().sum()

    with merging(unet, strategy(), roles=ROLES):
        (gradient,) = torch.autograd.grad(loss(x), x)
        with torch.no_grad():
            slope = (loss(x + 1e-5 * direction) - loss(x - 1e-5 * direction)) / 2e-5
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-6)


def gradients(latents, name, checkpointing, timesteps, trained=""):
    """Gradients of a loss over the predictions at some timesteps, for the weights whose names hold a word."""
    unet = tiny_unet()
    for weight_name, weight in unet.named_parameters():
        weight.requires_grad_(trained in weight_name)
    if checkpointing:
        unet.enable_gradient_checkpointing()
    unet.train()
    with merging(unet, name, ratio=0.5, refresh=1) as session:
        sum(unet(**latents(t=t, seed=t)).sample.square().mean() for t in timesteps).backward()
    return {weight_name: weight.grad for weight_name, weight in unet.named_parameters() if weight.requires_grad}, session


@pytest.mark.parametrize("timesteps", ((500,), (900, 500)))
@pytest.mark.parametrize("name", ("retom", "tomesd", "downsample"))
@pytest.mark.parametrize("trained", ("", "to_q"))  # "to_q" as with LoRA: the first block's input needs no gradient
def test_gradient_checkpointing_gives_the_same_gradients(trained, name, timesteps, latents):
    plain, checkpointed = (gradients(latents, name, on, timesteps, trained)[0] for on in (False, True))
    assert plain
    for weight, gradient in plain.items():
        torch.testing.assert_close(checkpointed[weight], gradient, atol=1e-6, rtol=1e-4, msg=lambda m, w=weight: f"{w}: {m}")


def test_blocks_that_checkpointing_runs_again_are_counted_once(latents):
    _, session = gradients(latents, "retom", True, (500,))
    assert {row["calls"] for row in session.report().to_dicts()} == {1}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_plans_remembered_for_backward_are_forgotten_after_it(checkpointing, unet, latents):
    if checkpointing:
        unet.train().enable_gradient_checkpointing()
    with merging(unet, "retom") as session:
        loss = unet(**latents()).sample.square().mean()
        assert session._chooser._recomputation
        loss.backward()
        assert not session._chooser._recomputation


def test_training_under_autocast_merges(unet, latents):
    with torch.autocast("cpu", dtype=torch.bfloat16), merging(unet, "retom", ratio=0.5, strict=True):
        unet(**latents()).sample.float().square().mean().backward()
    assert all(weight.grad.isfinite().all() for weight in unet.parameters())
