"""What a session promises: the model restored, seeds kept, options obeyed, the truth reported."""

import dataclasses
import inspect
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_unet
from torch import nn

from mergekit_diff import MergePlan, MergeReport, MergeSession, MergeStrategy, attach, make, merging
from mergekit_diff.experiments.study.rehearsal import planning_for

STRATEGIES = planning_for(2)
ROLES = ("self_attention", "key_value", "cross_attention", "feed_forward")


def by_site(report, role=None):
    return {row["site"]: row for row in report.to_dicts() if role in (None, row["role"])}


@pytest.mark.parametrize("name", STRATEGIES)
def test_ratio_zero_is_the_base_model_to_the_bit(name, unet, latents, predict, quiet):
    inputs = latents(h=14, w=18)
    base = predict(unet, inputs)
    with merging(unet, name, ratio=0, roles=ROLES) as session:
        assert torch.equal(predict(unet, inputs), base)
    assert not session.report().merged and session.report().granted == 0


@pytest.mark.parametrize("name", STRATEGIES)
def test_merging_changes_the_prediction_and_leaving_restores_it_to_the_bit(name, unet, latents, predict, count_hooks):
    inputs = latents()
    base, hooks = predict(unet, inputs), count_hooks(unet)
    with merging(unet, name, ratio=0.5, roles=ROLES) as session:
        merged = predict(unet, inputs)
        assert count_hooks(unet) > hooks
    assert merged.shape == base.shape and merged.isfinite().all() and not torch.equal(merged, base)
    assert session.report().merged
    assert torch.equal(predict(unet, inputs), base) and count_hooks(unet) == hooks
    assert torch.equal(predict(tiny_unet(), inputs), base)


def test_hooks_of_others_stay(unet, latents, predict, count_hooks):
    calls = []
    unet.mid_block.attentions[0].register_forward_hook(lambda *_: calls.append(1))
    hooks = count_hooks(unet)
    with merging(unet, "retom"):
        predict(unet, latents())
    predict(unet, latents())
    assert count_hooks(unet) == hooks == 1 and len(calls) == 2


@dataclasses.dataclass(frozen=True)
class Broken(MergeStrategy):
    """Fails at the third site, amid a forward."""

    def plan(self, x, ctx):
        if ctx.depth == 2:
            raise OverflowError("in the middle")
        return make("strategy", "retom").plan(x, ctx)


def test_exception_amid_a_forward_restores_the_model(unet, latents, predict, count_hooks):
    inputs = latents()
    base = predict(unet, inputs)
    with pytest.raises(OverflowError, match="in the middle"), merging(unet, Broken()):
        predict(unet, inputs)
    assert torch.equal(predict(unet, inputs), base) and count_hooks(unet) == 0
    with merging(unet, "retom"):
        predict(unet, inputs)
    assert torch.equal(predict(unet, inputs), base)


def test_exception_inside_the_block_restores_the_model_and_is_not_hidden(unet, latents, predict, count_hooks):
    for error in (KeyboardInterrupt, ZeroDivisionError):
        with pytest.raises(error), merging(unet, "retom", strict=True):
            raise error
        assert count_hooks(unet) == 0


def test_session_goes_on_after_an_exception_that_was_caught(unet, latents, predict):
    inputs = latents()
    with merging(unet, "retom"):
        expected = predict(unet, inputs)
    with merging(unet, "retom") as session:
        with pytest.raises(RuntimeError):
            predict(unet, inputs | {"encoder_hidden_states": torch.zeros(2, 7, 5)})
        session.new_image()
        assert torch.equal(predict(unet, inputs), expected)


def test_attach_merges_until_detach(unet, latents, predict, count_hooks):
    inputs = latents()
    base = predict(unet, inputs)
    session = attach(unet, make("strategy", {"name": "retom", "ratio": 0.5}))
    assert isinstance(session, MergeSession)
    assert not torch.equal(predict(unet, inputs), base)
    session.detach()
    assert torch.equal(predict(unet, inputs), base) and count_hooks(unet) == 0
    session.detach()
    with merging(unet, "retom") as again:
        predict(unet, inputs)
        session.detach()
        assert count_hooks(unet) > 0
    assert again.report().merged


def test_name_mapping_and_strategy_mean_the_same(unet, latents, predict):
    inputs = latents()
    outputs = []
    for strategy, options in (
        ("retom", {"ratio": 0.25, "window": 2}),
        ({"name": "retom", "ratio": 0.25, "window": 2}, {}),
        ({"name": "retom", "ratio": 0.5, "window": 2}, {"ratio": 0.25}),
        (make("strategy", {"name": "retom", "ratio": 0.25, "window": 2}), {}),
        (make("strategy", {"name": "retom", "ratio": 0.5}), {"ratio": 0.25, "window": 2}),
    ):
        with merging(unet, strategy, **options) as session:
            outputs.append(predict(unet, inputs))
        assert session.strategy == make("strategy", {"name": "retom", "ratio": 0.25, "window": 2})
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_pipeline_and_its_denoiser_are_one_target(pipe, latents, predict):
    inputs = latents()
    with merging(pipe, "retom"):
        through_pipe = predict(pipe.unet, inputs)
    with merging(pipe.unet, "retom"):
        assert torch.equal(predict(pipe.unet, inputs), through_pipe)


def test_second_session_on_a_model_is_refused_and_the_first_goes_on(pipe, latents, predict, count_hooks):
    inputs = latents()
    with merging(pipe, "retom"):
        merged, hooks = predict(pipe.unet, inputs), count_hooks(pipe.unet)
        for target in (pipe, pipe.unet):
            with pytest.raises(RuntimeError, match="another session"), merging(target, "tomesd"):
                pass
        assert count_hooks(pipe.unet) == hooks
    assert count_hooks(pipe.unet) == 0
    with merging(pipe.unet, "retom"):
        assert torch.equal(predict(pipe.unet, inputs), merged)


def test_two_models_are_merged_side_by_side(latents, predict):
    one, two = tiny_unet(), tiny_unet()
    with merging(one, "retom"):
        alone = predict(one, latents())
    with merging(one, "retom"), merging(two, "downsample"):
        assert torch.equal(predict(one, latents()), alone)
        assert not torch.equal(predict(two, latents()), alone)


def compiled_wrapper(pipe):
    pipe.unet = torch.compile(pipe.unet)
    return pipe


def compiled_in_place(pipe):
    pipe.unet.compile()
    return pipe


def compiled_part(pipe):
    pipe.unet.mid_block = torch.compile(pipe.unet.mid_block)
    return pipe


def compiled_part_in_place(pipe):
    pipe.unet.down_blocks[0].compile()
    return pipe


def compiled_forward(pipe):
    pipe.unet.forward = torch.compile(pipe.unet.forward)
    return pipe


@pytest.mark.parametrize(
    "prepare", (compiled_wrapper, compiled_in_place, compiled_part, compiled_part_in_place, compiled_forward)
)
def test_model_that_was_compiled_before_is_refused(prepare, pipe, count_hooks):
    pipe = prepare(pipe)
    for target in (pipe, pipe.unet):
        with pytest.raises(RuntimeError, match=r"compiled before.*session\.compile"), merging(target, "retom"):
            pass
        assert count_hooks(pipe.unet) == 0


def test_session_that_merged_nothing_warns_and_raises_when_strict(unet, latents, predict, count_hooks):
    with pytest.warns(UserWarning, match="no token was merged.*every token was kept"), merging(unet, "retom", ratio=0.0):
        predict(unet, latents())
    with pytest.raises(RuntimeError, match="no token was merged"), merging(unet, "retom", ratio=0.0, strict=True):
        predict(unet, latents())
    with pytest.warns(UserWarning, match="never called"), merging(unet, "retom"):
        pass
    assert count_hooks(unet) == 0


def test_the_warning_points_at_the_line_of_the_user(unet):
    def line():
        return inspect.currentframe().f_back.f_lineno

    with pytest.warns(UserWarning, match="never called") as caught:
        expected = line() + 1
        with merging(unet, "retom"):
            pass
        session = attach(unet, "retom")
        expected = expected, line() + 1
        session.detach()
    assert [(warning.filename, warning.lineno) for warning in caught] == [(__file__, each) for each in expected]


def test_attach_takes_what_merging_takes():
    assert inspect.signature(attach) == inspect.signature(merging)
    assert {"roles", "share", "proportional", "strict"} <= set(inspect.signature(attach).parameters)


def test_session_that_merged_says_nothing(unet, latents, predict, recwarn):
    with merging(unet, "retom", strict=True):
        predict(unet, latents())
    assert not [w for w in recwarn if "no token" in str(w.message)]


def test_strategy_that_leaves_a_site_alone_is_reported(unet, latents, predict):
    @dataclasses.dataclass(frozen=True)
    class Picky(MergeStrategy):
        """Level 0 only."""

        def plan(self, x, ctx):
            return make("strategy", "retom").plan(x, ctx) if ctx.level == 0 else None

    with merging(unet, Picky()) as session:
        predict(unet, latents())
    for row in session.report().to_dicts():
        if row["level"] == 0:
            assert row["kept"] == 128 and not row["note"]
        else:
            assert row["kept"] == row["tokens"] == 64 and "left it alone" in row["note"]


@pytest.mark.parametrize("name", STRATEGIES)
def test_same_seed_gives_the_same_prediction(name, unet, latents, predict):
    outputs = []
    for _ in range(2):
        with merging(unet, name, ratio=0.5, seed=7):
            outputs += [predict(unet, latents(t=900)), predict(unet, latents(t=600))]
            outputs += [predict(unet, latents(t=900)), predict(unet, latents(t=600))]
            torch.rand(3)
    assert all(torch.equal(outputs[i], outputs[i % 2]) for i in range(8))


@pytest.mark.parametrize("name", STRATEGIES)
def test_global_generator_is_untouched(name, unet, latents, predict):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with merging(unet, name, ratio=0.5):
        predict(unet, latents())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["tomesd", "random-dest", "retom", "retom-paper", "downsample"])
def test_other_seed_differs_where_there_is_chance(name, unet, latents, predict):
    outputs = []
    for seed in (0, 1):
        with merging(unet, name, ratio=0.5, seed=seed):
            outputs.append(predict(unet, latents()))
    assert torch.equal(*outputs) == (name in ("retom-paper", "downsample"))


@pytest.mark.parametrize("name", STRATEGIES)
def test_row_is_predicted_in_a_batch_as_alone(name, unet, latents, predict):
    inputs = latents(batch=3)
    if name == "pitome":  # partners are those of even and odd ranks, which rounding changes
        unet, inputs = unet.double(), {key: value.double() for key, value in inputs.items()}
    with merging(unet, name, ratio=0.5) as session:
        together = predict(unet, inputs)
        for row in range(3):
            session.new_image()
            alone = {k: v[row : row + 1] if v.ndim else v for k, v in inputs.items()}
            torch.testing.assert_close(predict(unet, alone), together[row : row + 1], atol=1e-4, rtol=1e-4)


def test_noise_follows_from_seed_step_and_site_alone(unet, latents, predict, recorder):
    strategy, seen = recorder

    def noises(seed, batch=2, **options):
        seen.clear()
        with merging(unet, strategy(), seed=seed, **options):
            for t in (900, 600):
                predict(unet, latents(t=t, batch=batch))
        return {(ctx.site, ctx.step): ctx.noise for ctx in seen}

    first, again, other = noises(0), noises(0, batch=3, roles=["feed_forward"]), noises(1)
    assert len(first) == 14
    for key, noise in first.items():
        assert noise.shape == ((256,) if seen[0].grid and noise.numel() == 256 else (64,))
        assert noise.min() >= 0 and noise.max() < 1 and noise.unique().numel() > 50
        assert torch.equal(noise, again[key]) and not torch.equal(noise, other[key])
    values = [tuple(noise[:8].tolist()) for noise in first.values()]
    assert len(set(values)) == len(values)


def test_context_tells_where_a_plan_is_made(unet, latents, predict, recorder):
    strategy, seen = recorder
    with merging(unet, strategy()):
        predict(unet, latents(h=8, w=24))
    assert [ctx.depth for ctx in seen] == list(range(7)) and {ctx.num_sites for ctx in seen} == {7}
    assert [ctx.stage for ctx in seen] == ["down", "down", "mid", "up", "up", "up", "up"]
    assert [ctx.level for ctx in seen] == [0, 1, 1, 1, 1, 0, 0]
    assert [ctx.grid for ctx in seen] == [(4, 12) if ctx.level else (8, 24) for ctx in seen]
    modules = dict(unet.named_modules())
    assert len({ctx.site for ctx in seen}) == 7
    for ctx in seen:
        assert type(modules[ctx.site]).__name__ == "BasicTransformerBlock"
        assert ctx.role == "self_attention"


def tokens_seen(unet, inputs, predict, strategy, **options):
    """Tokens that each part of the first block computes on: attn1, its keys, attn2, ff."""
    block = unet.down_blocks[0].attentions[0].transformer_blocks[0]
    found, handles = {}, []

    def watch(name):
        def hook(module, args, kwargs):
            found[name] = (args[0] if args else kwargs["hidden_states"]).shape[1]
            if name == "attn1" and kwargs.get("encoder_hidden_states") is not None:
                found["keys"] = kwargs["encoder_hidden_states"].shape[1]

        return hook

    with merging(unet, strategy, **options) as session:
        for name in ("attn1", "attn2", "ff"):
            handles.append(getattr(block, name).register_forward_pre_hook(watch(name), with_kwargs=True))
        output = predict(unet, inputs)
    for handle in handles:
        handle.remove()
    return found, output, session


@pytest.mark.parametrize(
    "roles", [*[(role,) for role in ROLES], ROLES, ("key_value", "feed_forward"), ("self_attention", "key_value")]
)
def test_each_role_merges_its_own_part_of_the_block(roles, unet, latents, predict):
    inputs = latents()
    base = predict(unet, inputs)
    found, output, session = tokens_seen(unet, inputs, predict, "retom", ratio=0.5, roles=roles)
    parts = {"self_attention": "attn1", "cross_attention": "attn2", "feed_forward": "ff", "key_value": "keys"}
    for role, part in parts.items():
        assert found.get(part) == (128 if role in roles else None if part == "keys" else 256)
    assert output.shape == base.shape and not torch.equal(output, base)
    assert {row["role"] for row in session.report().to_dicts()} == set(roles)


def test_every_role_alone_gives_another_prediction(unet, latents, predict):
    inputs = latents()
    outputs = []
    for roles in [*[(role,) for role in ROLES], ROLES]:
        with merging(unet, "retom", ratio=0.5, roles=roles):
            outputs.append(predict(unet, inputs))
    for i, output in enumerate(outputs):
        assert not any(torch.equal(output, other) for other in outputs[:i])


def test_one_role_may_be_given_as_a_word(unet, latents, predict):
    with merging(unet, "retom", roles="feed_forward", share="grid") as session:
        predict(unet, latents())
    assert session.options.roles == ("feed_forward",) and session.options.share == ("grid",)


def test_roles_of_a_block_share_one_plan_and_key_value_has_its_own(unet, latents, predict, recorder):
    strategy, seen = recorder
    with merging(unet, strategy(), roles=["self_attention", "cross_attention", "feed_forward"]) as session:
        predict(unet, latents())
    assert len(seen) == 7
    plans = session.plans()
    site = seen[0].site
    assert plans[site, "self_attention"][0] is plans[site, "feed_forward"][0] is plans[site, "cross_attention"][0]
    seen.clear()
    with merging(unet, strategy(), roles=ROLES) as session:
        predict(unet, latents())
    assert sorted(ctx.role == "key_value" for ctx in seen) == [False] * 7 + [True] * 7
    plans = session.plans()
    assert plans[site, "key_value"][0] is not plans[site, "self_attention"][0]


class Halves:
    """A plan of a class of one's own, with what hooks ask for and nothing else: neighbors are averaged."""

    def __init__(self, tokens):
        self.num_tokens, self.num_groups, self.sizes = tokens, tokens // 2, torch.full((1, tokens // 2), 2.0)

    def merge(self, x):
        return x.unflatten(1, (-1, 2)).mean(2)

    def unmerge(self, y):
        return y.repeat_interleave(2, 1)

    def select(self, x):
        return x[:, ::2]


@dataclasses.dataclass(frozen=True)
class OwnPlan(MergeStrategy):
    """Neighbors in a plan of a class of one's own, or the same partition as a MergePlan."""

    own: bool = True

    def plan(self, x, ctx):
        n = x.shape[1]
        return Halves(n) if self.own else MergePlan.from_target(torch.arange(n)[None] // 2 * 2, n // 2)


def test_a_plan_of_any_class_that_has_what_hooks_ask_for_will_do(unet, latents, predict):
    outputs = []
    for own in (True, False):
        with merging(unet, OwnPlan(own), roles=ROLES, proportional=True, share="cfg") as session:
            outputs.append(predict(unet, latents()))
        assert session.report().granted == 0.5
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-5)


def test_merged_part_is_unmerge_of_the_part_on_merged_tokens(unet, latents, predict):
    block = unet.down_blocks[0].attentions[0].transformer_blocks[0]
    given, taken = [], []
    # Registered before the session's own hooks, this one sees the tokens before they merge; one registered later sees the
    # output after it is unmerged.
    before = block.attn1.register_forward_pre_hook(lambda m, args, kwargs: given.append(args[0]), with_kwargs=True)
    with merging(unet, "retom", ratio=0.5) as session:
        after = block.attn1.register_forward_hook(lambda m, args, output: taken.append(output))
        predict(unet, latents())
        plan, grid = session.plans()["down_blocks.0.attentions.0.transformer_blocks.0", "self_attention"]
    before.remove()
    after.remove()
    assert grid == (16, 16)
    with torch.no_grad():
        expected = plan.unmerge(block.attn1(plan.merge(given[0])))
    torch.testing.assert_close(taken[0], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("levels", "merged"), [(None, {0, 1}), (1, {0}), (2, {0, 1}), (9, {0, 1})])
def test_levels_are_the_finest_grids(levels, merged, unet, latents, predict):
    with merging(unet, "retom", ratio=0.5, levels=levels) as session:
        predict(unet, latents())
    for row in session.report().to_dicts():
        assert (row["kept"] < row["tokens"]) == (row["level"] in merged)
        if row["level"] not in merged:
            assert "left out" in row["note"]


def test_depth_counts_the_sites_of_the_session(unet, latents, predict, recorder):
    strategy, seen = recorder
    with merging(unet, strategy(), levels=1):
        predict(unet, latents())
    assert [(ctx.depth, ctx.num_sites) for ctx in seen] == [(0, 3), (1, 3), (2, 3)]


def test_plan_of_guidance_halves_comes_from_the_conditional_half(unet, latents, predict):
    inputs = latents(batch=4)
    with merging(unet, "retom-paper", ratio=0.5, levels=1, share="cfg") as session:
        predict(unet, inputs)
        shared = session.plans()
    conditional = {k: v[2:] if v.ndim else v for k, v in inputs.items()}
    with merging(unet, "retom-paper", ratio=0.5, levels=1) as session:
        predict(unet, conditional)
        alone = session.plans()
    site = ("down_blocks.0.attentions.0.transformer_blocks.0", "self_attention")
    for key, (plan, _) in shared.items():
        assert torch.equal(plan.assign[:2], plan.assign[2:]) and torch.equal(plan.rep[:2], plan.rep[2:]), key
    assert torch.equal(shared[site][0].assign[2:], alone[site][0].assign)
    assert not torch.equal(alone[site][0].assign[0], alone[site][0].assign[1])


@pytest.mark.parametrize(("guides", "batch", "shared"), [(None, 2, False), (False, 2, False), (True, 2, True), (True, 3, False)])
def test_a_strategys_own_share_waits_for_a_pipeline_that_guides(guides, batch, shared, unet, latents, predict):
    pipe = unet if guides is None else SimpleNamespace(unet=unet, do_classifier_free_guidance=guides)
    with merging(pipe, "retom", ratio=0.5, levels=1) as session:
        predict(unet, latents(batch=batch))
        plans = [plan for plan, _ in session.plans().values()]
    assert plans and all(torch.equal(plan.assign[0], plan.assign[1]) == shared for plan in plans)


def test_weights_of_guidance_halves_are_shared_too(unet, latents, predict):
    for name, options in (("retom", {"alpha": 0.5}), ("downsample", {})):
        with merging(unet, name, ratio=0.5, share=["cfg"], **options) as session:
            predict(unet, latents(batch=2))
        assert session.report().merged


def test_odd_batch_with_shared_guidance_is_refused(unet, latents, predict, count_hooks):
    with pytest.raises(ValueError, match=r"cfg.*even batch.*got 3"), merging(unet, "retom", share="cfg"):
        predict(unet, latents(batch=3))
    assert count_hooks(unet) == 0


def test_shared_guidance_does_nothing_without_guidance(pipe, draw):
    with merging(pipe, "retom"):
        plain = draw(pipe, guidance_scale=1.0)
    with merging(pipe, "retom", share="cfg"):
        assert (draw(pipe, guidance_scale=1.0) == plain).all()
    with merging(pipe, "retom", share="cfg") as session:
        draw(pipe, ["a noto apple", "a 3d cat"], seeds=[0, 1], guidance_scale=5.0)
    for plan, _ in session.plans().values():
        assert torch.equal(plan.assign[:2], plan.assign[2:])


def test_sites_of_one_grid_share_a_plan_within_a_step(unet, latents, predict, recorder):
    strategy, seen = recorder
    with merging(unet, strategy(), share="grid", refresh=1):
        for t in (900, 600):
            predict(unet, latents(t=t))
    assert [(ctx.step, ctx.grid) for ctx in seen] == [(s, g) for s in (0, 1) for g in ((16, 16), (8, 8))]
    with merging(unet, "retom", ratio=0.5, share=("grid", "cfg"), refresh=2) as session:
        for t in (900, 600, 300):
            predict(unet, latents(t=t))
    for grid in ((16, 16), (8, 8)):
        plans = [plan for plan, where in session.plans().values() if where == grid]
        assert len(plans) > 2 and all(torch.equal(plan.assign, plans[0].assign) for plan in plans)
        assert sum(row["plans"] for row in session.report().to_dicts() if row["grid"] == grid) == 2


def test_report_tells_asked_and_granted_site_by_site(unet, latents, predict):
    with merging(unet, "tomesd", ratio=0.5, levels=None, refresh=2) as session:
        for t in (900, 600, 300):
            predict(unet, latents(t=t))
    report = session.report()
    assert isinstance(report, MergeReport) and report.merged
    rows = report.to_dicts()
    assert len(rows) == 7
    for row in rows:
        if row["level"] == 0:
            assert (row["tokens"], row["kept"], row["asked"], row["granted"]) == (256, 128, 0.5, 0.5)
            assert (row["plans"], row["calls"], row["grid"]) == (2, 3, (16, 16))
            assert row["by_step"] == {0: (256, 128), 1: (256, 128), 2: (256, 128)}
        else:
            assert row["calls"] == 0 and row["granted"] == 0 and "left out" in row["note"]
    assert report.tokens == (3 * 3 * 256, 3 * 3 * 128)
    assert report.asked == report.granted == 0.5


def test_report_reads_as_a_table(unet, latents, predict):
    with merging(unet, "retom", ratio=0.5) as session:
        predict(unet, latents())
    lines = str(session.report()).splitlines()
    assert all(word in lines[0] for word in ("sites", "role", "tokens", "kept", "asked", "granted", "plans", "note"))
    assert len(lines) == 3
    assert [line.split()[:5] for line in lines[1:]] == [
        ["3", "self_attention", "0", "16x16", "256"],
        ["4", "self_attention", "1", "8x8", "64"],
    ]


def test_ratio_that_cannot_be_granted_is_said_with_its_reason(unet, latents, predict):
    with merging(unet, "tomesd", ratio=0.9) as session:
        predict(unet, latents())
    for row in session.report().to_dicts():
        if row["calls"]:
            assert (row["asked"], row["granted"]) == (0.9, 0.75)
            assert row["note"] == "less granted than asked: each window of 2x2 keeps a token"
    assert (session.report().asked, session.report().granted) == (0.9, 0.75)


@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        ({"name": "retom", "window": 2, "ratio": 0.8}, "each window of 2x2 keeps a token"),
        ({"name": "retom-paper", "window": 2, "ratio": 0.6}, "rounded in windows of 2x2"),
        ({"name": "retom-paper", "window": [1, 4], "ratio": 0.6}, "rounded in windows of 1x4"),
        ({"name": "dynamic-ratio", "ratio": 0.9, "inner": "tomesd"}, "each window of 2x2 keeps a token"),
        ({"name": "downsample", "ratio": 0.7}, "the strategy's own rule"),
        ({"name": "retom", "window": 4, "ratio": 0.5}, None),
        ({"name": "tomesd", "ratio": 0.333}, None),
    ],
)
def test_the_reason_why_less_is_granted_is_the_one_that_applies(unet, latents, predict, strategy, reason):
    with merging(unet, strategy, levels=1) as session:
        predict(unet, latents())
    (note,) = {row["note"] for row in session.report().to_dicts() if row["calls"]}
    assert note == (f"less granted than asked: {reason}" if reason else "")


def test_steps_at_which_nothing_merges_are_a_reason_too(unet, latents, predict):
    class Sometimes(type(make("strategy", "tomesd"))):
        def plan(self, x, ctx):
            return super().plan(x, ctx) if ctx.step else MergePlan.from_target(torch.arange(x.shape[1])[None], x.shape[1])

    with merging(unet, Sometimes(0.5), refresh=1) as session:
        predict(unet, latents(t=900))
        predict(unet, latents(t=100))
    notes = {row["note"] for row in session.report().to_dicts() if row["calls"]}
    assert notes == {"every token was kept (M = N); less granted than asked: nothing merged at some steps"}


def test_ratio_that_changes_is_reported_as_its_mean(unet, latents, predict):
    ratio = {"name": "step", "values": [0.75, 0.25], "at": [0.5]}
    with merging(unet, "retom", ratio=ratio, window=4) as session:
        predict(unet, latents(t=900))
        predict(unet, latents(t=100))
    for row in session.report().to_dicts():
        assert row["asked"] == row["granted"] == 0.5
        assert [kept / n for n, kept in row["by_step"].values()] == [0.25, 0.75]


def test_site_where_nothing_could_be_merged_is_reported_with_its_reason(unet, latents, predict, quiet):
    with merging(unet, "retom-paper", ratio=0.1, window=2) as session:
        predict(unet, latents())
    for row in session.report().to_dicts():
        assert row["granted"] == 0 and row["asked"] == 0.1 and "every token was kept" in row["note"]


def test_window_larger_than_the_grid_is_cut_and_said(unet, latents, predict):
    with merging(unet, "retom", ratio=0.5, window=[12, 4]) as session:
        predict(unet, latents())
    notes = {row["grid"]: row["note"] for row in session.report().to_dicts()}
    assert notes[8, 8] == "window 12x4 cut to 8x4" and notes[16, 16] == ""
    assert session.report().granted == pytest.approx(0.5, abs=0.01)


def test_batch_shared_ratio_is_said(unet, latents, predict):
    with merging(unet, "dynamic-ratio", ratio=0.5, threshold=-0.9, quantum=16) as session:
        predict(unet, latents())
    assert session.report().merged
    assert all("batch-shared" in row["note"] for row in session.report().to_dicts() if row["calls"])
    with merging(unet, "retom") as session:
        predict(unet, latents())
    assert not any("batch-shared" in row["note"] for row in session.report().to_dicts())


def test_plans_of_a_session_are_partitions_with_their_grids(unet, latents, predict):
    with merging(unet, "retom", ratio=0.5, roles=ROLES) as session:
        assert session.plans() == {}
        predict(unet, latents(h=8, w=24))
    assert len(session.plans()) == 4 * 7
    for plan, grid in session.plans().values():
        assert (
            isinstance(plan, MergePlan) and plan.num_tokens == grid[0] * grid[1] and plan.granted == pytest.approx(0.5, abs=0.05)
        )


@pytest.mark.parametrize(
    ("strategy", "options", "said"),
    [
        ("retm", {}, ("'retm'", "did you mean 'retom'", "tomesd")),
        ({"name": "retm"}, {}, ("did you mean 'retom'",)),
        ({"ratio": 0.5}, {}, ("name",)),
        (None, {}, ("strategy", "None", "retom")),
        (5, {}, ("strategy", "5", "retom")),
        ("retom", {"rato": 0.5}, ("'rato'", "did you mean 'ratio'", "window")),
        ("retom", {"refesh": 5}, ("'refesh'", "did you mean 'refresh'")),
        ({"name": "retom"}, {"levls": 5}, ("'levls'", "did you mean 'levels'")),
        (make("strategy", "retom"), {"refesh": 5}, ("'refesh'", "did you mean 'refresh'")),
        (make("strategy", "retom"), {"rato": 0.5}, ("'rato'", "did you mean 'ratio'")),
        ("retom", {"ratio": 1.0}, ("[0, 1)", "1.0")),
        ("retom", {"ratio": -0.5}, ("[0, 1)", "-0.5")),
        (make("strategy", "retom"), {"ratio": 1.0}, ("[0, 1)", "1.0")),
        ("retom", {"window": 0}, ("at least 1", "0")),
        ("retom", {"window": -3}, ("at least 1", "-3")),
        ("retom", {"metric": "cosin"}, ("did you mean 'cosine'",)),
        ("retom", {"roles": ["self_atention"]}, ("did you mean 'self_attention'", "key_value")),
        ("retom", {"share": "grd"}, ("did you mean 'grid'", "cfg")),
        ("retom", {"gate": "sometimes"}, ("'sometimes'", "none")),
        ("retom", {"refresh": 0}, ("refresh", "at least 1", "0")),
        ("retom", {"refresh": 1.5}, ("refresh", "1.5")),
        ("retom", {"refresh": True}, ("refresh", "True")),
        ("retom", {"levels": 0}, ("levels", "at least 1", "0")),
        ("retom", {"levels": "all"}, ("levels", "None", "all")),
    ],
    ids=str,
)
def test_bad_option_is_refused_in_one_line_and_leaves_the_model_alone(strategy, options, said, unet, count_hooks):
    with pytest.raises(ValueError) as raised, merging(unet, strategy, **options):
        pass
    message = str(raised.value)
    assert "\n" not in message and all(word in message for word in said), message
    assert count_hooks(unet) == 0


@pytest.mark.parametrize("target", [nn.Linear(2, 2), nn.Sequential(), "a path", None, 5], ids=repr)
def test_target_with_no_known_sites_is_refused(target):
    with pytest.raises(ValueError) as raised, merging(target, "retom"):
        pass
    message = str(raised.value)
    assert type(target).__name__ in message and "\n" not in message
    if isinstance(target, nn.Module):
        assert "UNet2DConditionModel" in message and "register_family" in message


def test_unet_without_attention_is_refused():
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "mid_block_type": None}
    with pytest.raises(ValueError, match="no block with self-attention"), merging(tiny_unet(**blocks), "retom"):
        pass


def test_window_of_the_wrong_number_of_axes_is_refused_at_the_first_call(unet, latents, predict, count_hooks):
    with pytest.raises(ValueError, match=r"2 axes.*3 axes"), merging(unet, "retom", window=[2, 2, 2]):
        predict(unet, latents())
    assert count_hooks(unet) == 0
