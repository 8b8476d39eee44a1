"""Sites found by structure in U-Nets and ControlNets of many shapes, and in models that a user registers."""

import math

import diffusers
import pytest
import torch
from tiny import tiny_unet
from torch import nn

from mergekit_diff import Layout, Site, merging, register_family

SD15 = {
    "block_out_channels": (8, 16, 16, 16),
    "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    "norm_num_groups": 4,
}
SD2 = SD15 | {"use_linear_projection": True, "attention_head_dim": (1, 2, 2, 4)}
SDXL = {
    "block_out_channels": (8, 16, 24),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 40,
    "norm_num_groups": 4,
}
ODD_WIDTHS = {"block_out_channels": (12, 20), "attention_head_dim": 4, "norm_num_groups": 4}
MODELS = {"sd15": SD15, "sd2": SD2, "sdxl": SDXL, "odd widths": ODD_WIDTHS, "two levels": {}}


def inputs_of(name, latents, **changes):
    inputs = latents(**changes)
    if name == "sdxl":
        batch = len(inputs["sample"])
        inputs["added_cond_kwargs"] = {"text_embeds": torch.ones(batch, 16), "time_ids": torch.ones(batch, 6)}
    return inputs


def places(seen):
    return [(ctx.stage, ctx.level, ctx.grid) for ctx in seen]


@pytest.mark.parametrize(("h", "w"), [(32, 32), (24, 40), (16, 8)])
@pytest.mark.parametrize("name", MODELS)
def test_sites_run_in_order_with_stage_level_and_grid(name, h, w, latents, predict, recorder):
    strategy, seen = recorder
    unet = tiny_unet(**MODELS[name])
    with merging(unet, strategy()):
        predict(unet, inputs_of(name, latents, h=h, w=w))

    def grid(halvings):
        return (math.ceil(h / 2**halvings), math.ceil(w / 2**halvings))

    if name in ("sd15", "sd2"):
        down, up = [("down", i, grid(i)) for i in range(3)], [("up", i, grid(i)) for i in (2, 2, 1, 1, 0, 0)]
        expected = [*down, ("mid", 3, grid(3)), *up]
    elif name == "sdxl":
        down = [("down", i, grid(i + 1)) for i in (0, 0, 1, 1)]
        expected = [*down, *[("mid", 1, grid(2))] * 2, *[("up", i, grid(i + 1)) for i in (1,) * 4 + (0,) * 4]]
    else:
        down, up = [("down", i, grid(i)) for i in range(2)], [("up", i, grid(i)) for i in (1, 1, 0, 0)]
        expected = [*down, ("mid", 1, grid(1)), *up]
    assert places(seen) == expected
    assert [ctx.depth for ctx in seen] == list(range(len(expected)))
    attentions = [n for n, m in unet.named_modules() if type(m).__name__ == "BasicTransformerBlock"]
    assert sorted(ctx.site for ctx in seen) == sorted(attentions)


@pytest.mark.parametrize("strategy", ("retom", "tomesd", "downsample"))
@pytest.mark.parametrize(("h", "w"), [(32, 24), (20, 28), (8, 8)])
@pytest.mark.parametrize("name", MODELS)
def test_every_unet_merges_and_is_restored(name, h, w, strategy, latents, predict):
    unet = tiny_unet(**MODELS[name])
    inputs = inputs_of(name, latents, h=h, w=w)
    base = predict(unet, inputs)
    with merging(unet, strategy, ratio=0.5, strict=True) as session:
        merged = predict(unet, inputs)
    assert merged.shape == base.shape and merged.isfinite().all() and not torch.equal(merged, base)
    finest = [row for row in session.report().to_dicts() if row["level"] == 0]
    assert finest and all(row["granted"] == pytest.approx(0.5, abs=0.15) for row in finest)
    assert torch.equal(predict(unet, inputs), base)


def test_first_level_of_tomesd_is_the_first_that_has_attention(latents, predict):
    unet = tiny_unet(**SDXL)
    with merging(unet, "tomesd", ratio=0.5, strict=True) as session:
        predict(unet, inputs_of("sdxl", latents, h=32, w=32))
    merged = {row["grid"] for row in session.report().to_dicts() if row["kept"] < row["tokens"]}
    assert merged == {(16, 16)}


def test_grids_that_resampling_rounds_are_read_not_guessed(latents, predict, recorder):
    strategy, seen = recorder
    unet = tiny_unet()
    base = predict(unet, latents(h=9, w=13))
    with merging(unet, strategy()):
        assert predict(unet, latents(h=9, w=13)).shape == base.shape
    assert {ctx.grid for ctx in seen} == {(9, 13), (5, 7)}
    with merging(unet, "retom", ratio=0.5, roles=("self_attention", "key_value", "cross_attention", "feed_forward")):
        assert predict(unet, latents(h=9, w=13)).isfinite().all()


def test_inputs_by_position_and_by_keyword_merge_alike(unet, latents, predict):
    inputs = latents()
    with merging(unet, "retom", ratio=0.5) as session:
        by_keyword = predict(unet, inputs)
        session.new_image()
        with torch.no_grad():
            by_position = unet(inputs["sample"], inputs["timestep"], inputs["encoder_hidden_states"], return_dict=False)[0]
    assert torch.equal(by_keyword, by_position)


def test_batch_of_one_and_of_many_rows(unet, latents, predict):
    for batch in (1, 5):
        with merging(unet, "retom", ratio=0.5, strict=True):
            assert len(predict(unet, latents(batch=batch))) == batch


@pytest.mark.parametrize("strategy", ("retom", "tomesd", "random-dest"))
def test_half_precision_model_merges(strategy, latents, predict):
    unet = tiny_unet().to(torch.bfloat16)
    inputs = {k: v.bfloat16() if v.is_floating_point() else v for k, v in latents().items()}
    with merging(unet, strategy, ratio=0.5, strict=True):
        merged = predict(unet, inputs)
    assert merged.dtype == torch.bfloat16 and merged.isfinite().all()


def tiny_controlnet():
    torch.manual_seed(1)
    return diffusers.ControlNetModel(
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
        conditioning_embedding_out_channels=(8, 8),
    ).eval()


def strengthened(controlnet):
    """Its output convolutions are born zero; with other weights its attention shows in its outputs."""
    with torch.no_grad():
        for block in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
            nn.init.eye_(block.weight[:, :, 0, 0])
    return controlnet


def test_controlnet_merges_and_is_restored(latents, recorder):
    strategy, seen = recorder
    controlnet = strengthened(tiny_controlnet())
    inputs = latents() | {"controlnet_cond": torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))}

    def outputs():
        with torch.no_grad():
            found = controlnet(**inputs, return_dict=False)
        return [*found[0], found[1]]

    base = outputs()
    with merging(controlnet, strategy()):
        assert any(not torch.equal(a, b) for a, b in zip(outputs(), base, strict=True))
    assert places(seen) == [("down", 0, (16, 16)), ("down", 1, (8, 8)), ("mid", 1, (8, 8))]
    assert all(torch.equal(a, b) for a, b in zip(outputs(), base, strict=True))


ONE_LEVEL = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "mid_block_type": None,
}


@pytest.mark.parametrize("role", ("self_attention", "key_value"))
def test_mask_over_the_tokens_is_refused(role, latents, predict, count_hooks):
    unet = tiny_unet(**ONE_LEVEL)
    inputs = latents() | {"attention_mask": torch.ones(2, 256)}
    base = predict(unet, inputs)
    with pytest.raises(ValueError) as raised, merging(unet, "retom", roles=role):
        predict(unet, inputs)
    assert "'attention_mask' has a value for every token" in str(raised.value) and "\n" not in str(raised.value)
    assert count_hooks(unet) == 0 and torch.equal(predict(unet, inputs), base)
    with merging(unet, "retom", roles="feed_forward", strict=True):
        predict(unet, inputs)


def test_mask_over_the_text_is_no_mask_over_the_tokens(unet, latents, predict):
    mask = torch.ones(2, 7)
    mask[:, 4:] = 0
    inputs = latents() | {"encoder_attention_mask": mask}
    with merging(unet, "retom", roles=("self_attention", "cross_attention"), strict=True):
        masked = predict(unet, inputs)
        short = inputs | {"encoder_hidden_states": inputs["encoder_hidden_states"][:, :4], "encoder_attention_mask": mask[:, :4]}
        unmasked = predict(unet, short | {"timestep": torch.tensor(500)})
    torch.testing.assert_close(masked, unmasked, atol=1e-4, rtol=1e-4)


def test_text_as_long_as_the_tokens_is_handed_on(unet, latents, predict):
    with merging(unet, "retom", roles=("self_attention", "cross_attention"), strict=True):
        assert predict(unet, latents(text=256)).isfinite().all()
        assert predict(unet, latents(text=64, t=400)).isfinite().all()


def test_mask_over_a_text_as_long_as_the_tokens_is_handed_on(unet, latents, predict):
    inputs = latents(text=64) | {"encoder_attention_mask": torch.ones(2, 64)}
    with merging(unet, "retom", roles=("self_attention", "cross_attention"), strict=True):
        assert predict(unet, inputs).isfinite().all()


class ToyBlock(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.attn = nn.Linear(width, width)
        self.ff = nn.Linear(width, width)

    def forward(self, hidden_states):
        hidden_states = hidden_states + self.attn(hidden_states)
        return hidden_states + self.ff(hidden_states)


class ToyLine(nn.Module):
    """Tokens in a line, a timestep."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([ToyBlock(), ToyBlock()])

    def forward(self, x, timestep):
        for block in self.blocks:
            x = block(x)
        return x


class ToyVideo(nn.Module):
    """Tokens of frames, height and width, as a channels-first tensor; no timestep."""

    def __init__(self):
        super().__init__()
        self.block = ToyBlock()

    def forward(self, video):
        return self.block(video.flatten(2).mT).mT.unflatten(2, video.shape[2:])


class ToyChild(ToyLine):
    """What inherits from a known model is known."""


def register_toys():
    @register_family("ToyLine")
    def line(model):
        for i, block in enumerate(model.blocks):
            yield Site(name=f"blocks.{i}", block=block, roles={"self_attention": block.attn, "feed_forward": block.ff}, level=i)

    @register_family("ToyVideo")
    def video(model):
        yield Site(name="block", block=model.block, roles={"self_attention": model.block.attn}, frame=model)


@pytest.mark.parametrize("model", (ToyLine, ToyChild))
def test_own_model_with_a_line_of_tokens_merges(model, families, recorder, tokens, count_hooks):
    register_toys()
    strategy, seen = recorder
    torch.manual_seed(0)
    toy, x = model(), tokens(2, 17)
    base = toy(x, 5)
    with merging(toy, strategy(), roles=("self_attention", "feed_forward")) as session:
        merged = toy(x, torch.tensor(900))
    assert [(c.site, c.grid, c.stage, c.level, c.progress) for c in seen] == [
        ("blocks.0", (17,), None, 0, pytest.approx(0.1)),
        ("blocks.1", (17,), None, 1, pytest.approx(0.1)),
    ]
    assert merged.shape == base.shape and not torch.equal(merged, base)
    assert session.report().tokens == (4 * 17, 4 * 9)
    assert torch.equal(toy(x, 5), base) and count_hooks(toy) == 0


def test_own_model_merges_as_its_formula_says(families, tokens):
    register_toys()
    torch.manual_seed(0)
    toy, x = ToyLine(), tokens(2, 12)
    with merging(toy, "retom", ratio=0.5, window=4, levels=1, roles=("self_attention", "feed_forward")) as session:
        merged = toy(x, 500)
    plan, grid = session.plans()["blocks.0", "feed_forward"]
    assert grid == (12,) and plan.num_groups == 6
    first, second = toy.blocks
    y = x + plan.unmerge(first.attn(plan.merge(x)))
    y = y + plan.unmerge(first.ff(plan.merge(y)))
    torch.testing.assert_close(merged, second(y))


@pytest.mark.parametrize("strategy", ("retom", "tomesd", "random-dest", "dynamic-ratio"))
def test_own_model_of_three_axes_merges(strategy, families, tokens):
    register_toys()
    torch.manual_seed(0)
    toy, video = ToyVideo(), tokens(2, 8, 60).unflatten(2, (3, 4, 5))
    base = toy(video)
    with merging(toy, strategy, ratio=0.5, strict=True) as session:
        merged = toy(video=video)
        assert torch.equal(toy(video), merged)
    assert {grid for _, grid in session.plans().values()} == {(3, 4, 5)}
    assert merged.shape == base.shape and not torch.equal(merged, base)


class Biased(nn.Module):
    def forward(self, x, bias=None):
        return x if bias is None else x + bias


class ToyBiased(nn.Module):
    """Hands its inner module a bias by position or by keyword."""

    def __init__(self):
        super().__init__()
        self.inner = Biased()

    def forward(self, x, by_position, width=1):
        bias = torch.zeros(1, x.shape[1], 1) if width == 1 else torch.zeros(width)
        return self.inner(x, bias) if by_position else self.inner(x, bias=bias)


@pytest.mark.parametrize("by_position", (True, False))
def test_argument_over_the_tokens_that_a_site_does_not_know_is_refused(by_position, families, tokens):
    @register_family("ToyBiased")
    def biased(model):
        yield Site(name="inner", block=model, roles={"self_attention": model.inner})

    toy = ToyBiased()
    with pytest.raises(ValueError, match=r"inner self_attention: .* a value for every token"), merging(toy, "retom"):
        toy(tokens(1, 16), by_position)
    with merging(toy, "retom", strict=True):
        assert toy(tokens(1, 16), by_position, width=8).shape == (1, 16, 8)


def test_family_that_finds_nothing_is_refused(families):
    @register_family("ToyLine")
    def nothing(model):
        return []

    with pytest.raises(ValueError, match="ToyLine has no block"), merging(ToyLine(), "retom"):
        pass


def test_session_that_cannot_be_attached_leaves_no_hook(families, tokens, count_hooks):
    @register_family("ToyLine")
    def half_right(model):
        yield Site(name="blocks.0", block=model.blocks[0], roles={"self_attention": model.blocks[0].attn})
        yield Site(name="blocks.1", block=model.blocks[1], roles={"self_attention": None})

    toy = ToyLine()
    with pytest.raises((AttributeError, TypeError, ValueError)), merging(toy, "retom"):
        pass
    assert count_hooks(toy) == 0
    register_toys()
    with merging(toy, "retom", strict=True):
        toy(tokens(1, 16), 500)


def test_grid_that_does_not_hold_the_tokens_is_refused(families, tokens):
    @register_family("ToyVideo")
    def wrong(model):
        yield Site(
            name="block",
            block=model.block,
            roles={"self_attention": model.block.attn},
            frame=model,
            layout=lambda _: Layout((2, 2)),
        )

    toy = ToyVideo()
    with pytest.raises(ValueError, match=r"block: expected 4 tokens on a grid of \(2, 2\), got 60"):
        with merging(toy, "retom"):
            toy(tokens(1, 8, 60).unflatten(2, (3, 4, 5)))
