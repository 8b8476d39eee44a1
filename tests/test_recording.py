"""What a session records for the strategies that ask: predictions, outputs, ages; and that nothing of it stays."""

import dataclasses
import math

import pytest
import torch
from tiny_families import FAMILIES, TRANSFORMERS, build
from tiny_families import predict as predict_family
from torch.nn import functional as F

from mergekit_diff import MergePlan, MergeStrategy, RatioSchedule, make, merging
from mergekit_diff.plan import serves
from mergekit_diff.recording import sample_of
from mergekit_diff.sites import family_of

SITE = "down_blocks.0.attentions.0.transformer_blocks.0"
BY_SIGNAL = ("imtome", "dato", "sdtm")


def pairs(n, merged=None, batch=1):
    """Targets in which every second token joins the one before it; the first ``merged`` pairs alone."""
    target = torch.arange(n).repeat(batch, 1)
    last = n if merged is None else min(n, 2 * merged)
    target[:, 1:last:2] -= 1
    return target, n - len(range(1, last, 2))


@pytest.fixture
def watching():
    """A strategy that merges pairs, a pair fewer at every step, and what it was given."""
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Watching(MergeStrategy):
        """Pairs."""

        ratio: RatioSchedule = 0.5
        words: tuple[str, ...] = ("prediction", "output", "age")
        keep: float = 0.0
        roles_of_plan: tuple[str, ...] | None = None
        whole_at: int = -1

        def asks(self):
            return self.words

        def plan(self, x, ctx):
            seen.append((ctx, x))
            if ctx.step == self.whole_at:
                return None
            return MergePlan.from_target(*pairs(x.shape[1], max(1, 10 - ctx.step)), keep=self.keep, roles=self.roles_of_plan)

    return Watching, seen


def given(seen, word, site=SITE):
    return [ctx.signals.get(word) for ctx, _ in seen if ctx.site == site]


def apart(a, b, grid):
    return F.adaptive_avg_pool2d((a - b).abs().mean(1, keepdim=True), grid).flatten(1)


def test_predictions_are_the_last_ones_on_the_grid_of_the_site(unet, latents, predict, watching):
    strategy, seen = watching
    with merging(unet, strategy(), share="cfg"):
        outputs = [predict(unet, latents(t=t, batch=4, seed=t)) for t in (900, 700, 500)]
    first, second, third = given(seen, "prediction")
    assert first is None and second.change is None
    uncond, cond = outputs[1].chunk(2)
    torch.testing.assert_close(third.guidance, apart(uncond, cond, (16, 16)))
    torch.testing.assert_close(third.change, apart(outputs[1], outputs[0], (16, 16))[2:])  # the conditional half
    torch.testing.assert_close(second.guidance, apart(*outputs[0].chunk(2), (16, 16)))
    coarse = next(ctx for ctx, _ in seen if ctx.grid == (8, 8) and ctx.step == 2)
    torch.testing.assert_close(coarse.signals["prediction"].guidance, apart(uncond, cond, (8, 8)))


def test_each_half_is_given_its_own_change_and_the_same_guidance(unet, latents, predict, watching, pipe):
    strategy, seen = watching
    pipe.unet, pipe._guidance_scale = unet, 5.0
    with merging(pipe, strategy(), share=()):
        outputs = [predict(unet, latents(t=t, batch=2, seed=t)) for t in (900, 700, 500)]
    found = given(seen, "prediction")[-1]
    assert torch.equal(found.guidance[0], found.guidance[1]) and not torch.equal(found.change[0], found.change[1])
    torch.testing.assert_close(found.change, apart(outputs[1], outputs[0], (16, 16)))


def test_rows_that_are_no_halves_have_no_guidance_difference(unet, latents, predict, watching):
    strategy, seen = watching
    with merging(unet, strategy()):
        for t in (900, 700, 500):
            predict(unet, latents(t=t, batch=2))
    assert [p.guidance for p in given(seen, "prediction")[1:]] == [None, None]
    assert given(seen, "prediction")[-1].change.shape == (2, 256)


def test_two_calls_a_step_are_the_halves(watching):
    strategy, seen = watching
    model, inputs = build("wan")
    other = inputs | {"encoder_hidden_states": inputs["encoder_hidden_states"].flip(1) * 2}
    outputs = []
    with merging(model, strategy()):
        for t in (900, 700, 500):
            time = {"timestep": torch.full_like(inputs["timestep"], t)}
            outputs.append([predict_family(model, one | time) for one in (inputs, other)])
    maps = [(ctx, ctx.signals.get("prediction")) for ctx, _ in seen if ctx.site == "blocks.0"]
    assert [ctx.step for ctx, _ in maps] == [0, 0, 1, 1, 2, 2] and maps[0][1] is maps[1][1] is None
    cond, uncond = outputs[1]
    grid = maps[-1][0].grid
    halves = F.adaptive_avg_pool3d((cond - uncond).abs().mean(1, keepdim=True), grid).flatten(1)
    for (_, found), call in zip(maps[-2:], (0, 1), strict=True):
        torch.testing.assert_close(found.guidance, halves)
        change = (outputs[1][call] - outputs[0][call]).abs().mean(1, keepdim=True)
        torch.testing.assert_close(found.change, F.adaptive_avg_pool3d(change, grid).flatten(1))


@pytest.mark.parametrize("model", [name for name in FAMILIES if name != "joyimage_with_another"])  # whose output has both
def test_predictions_of_every_family_fit_its_sites(model, watching):
    strategy, seen = watching
    transformer, inputs = build(model)
    family = family_of(transformer)
    if family.channels == 0:
        with pytest.raises(ValueError, match="needs 'prediction', which this model does not give: expected a denoiser"):
            merging(transformer, strategy())
        return
    name, rises = family.timestep, family.time in ("1-t/1000", "1000-t")
    time = torch.as_tensor(inputs[name])
    with merging(transformer, strategy()) as session:
        for factor in (0.8, 0.9, 1.0) if rises else (1.0, 0.9, 0.8):
            predict_family(transformer, inputs | {name: (time * factor).to(time.dtype)})
    assert session.report().merged
    last = [(ctx.signals["prediction"], ctx.grid, len(x)) for ctx, x in seen if ctx.step == 2]
    assert last and all(found.change.shape == (rows, math.prod(grid)) for found, grid, rows in last)
    assert all(found.change.isfinite().all() and found.change.max() > 0 for found, _, _ in last)


def test_refresh_and_a_new_image(unet, latents, predict, watching):
    strategy, seen = watching
    with merging(unet, strategy(), refresh=2) as session:
        outputs = [predict(unet, latents(t=t, seed=t)) for t in (900, 700, 500)]
        session.new_image()
        predict(unet, latents(t=900))
        assert len(session._records._steps) == 1
    assert [ctx.step for ctx, _ in seen if ctx.site == SITE] == [0, 2, 0]
    first, third, again = given(seen, "prediction")
    assert first is None and again is None
    torch.testing.assert_close(third.change, apart(outputs[1], outputs[0], (16, 16)))
    assert given(seen, "age")[0] is None and given(seen, "age")[2] is None


def test_nothing_is_recorded_for_others_and_nothing_stays_after_the_session(unet, latents, predict, watching):
    strategy, _ = watching
    with merging(unet, "tomesd") as session:
        predict(unet, latents())
        assert not session._records._steps and session._records.outputs is None
    assert session.report().recorded == {}
    with merging(unet, strategy()) as session:
        predict(unet, latents())
        assert session._records._steps and session._records.outputs.tensors()
    assert not session._records._steps and not session._records.outputs.tensors() and not session._chooser._planner._kept


def test_an_output_that_is_no_prediction_is_refused_in_one_line():
    for output, channels in (([torch.zeros(1, 2, 3)], 0), ({"residuals": torch.zeros(1)}, None), (torch.zeros(2, 3), None)):
        with pytest.raises(ValueError, match="expected a denoiser that returns its prediction") as raised:
            sample_of(output, channels)
        assert "\n" not in str(raised.value)
    assert sample_of(torch.zeros(1, 3, 4, 5, 6), 2).shape == (1, 4, 3, 5, 6)
    assert sample_of(torch.zeros(1, 9, 4), None).shape == (1, 4, 9)


CLEAN = ("wan_from_image", "skyreels_from_image", "cosmos_from_image", "hunyuan_from_image", "kandinsky_6")
"""Models that are given a frame, which lies in their output but not in the grid of what merges."""


@pytest.mark.parametrize("name", [name for name in TRANSFORMERS if name not in CLEAN])
def test_every_family_says_where_the_channels_of_its_output_are(name):
    model, inputs = build(name)
    if family_of(model).channels == 0:
        pytest.skip("it returns no prediction")
    with torch.no_grad():
        output = model(**inputs, return_dict=False)
    grid = FAMILIES[name].grid
    places = sample_of(output, family_of(model).channels).shape[2:]
    if len(places) < len(grid):
        assert places[0] >= math.prod(grid)
    else:
        assert all(-(-place // side) * side - place < 2 for place, side in zip(places[-len(grid) :], grid, strict=True))


@pytest.mark.parametrize("role", ("self_attention", "feed_forward", "cross_attention"))
def test_the_kept_share_of_the_last_output_is_blended_in_where_tokens_share_a_group(role, unet, latents, predict, watching):
    strategy, _ = watching
    part = {"self_attention": "attn1", "feed_forward": "ff", "cross_attention": "attn2"}[role]
    layer = unet.get_submodule(f"{SITE}.{part}")
    raw, final = [], []
    before = layer.register_forward_hook(lambda m, args, output: raw.append(output))
    with merging(unet, strategy(keep=0.25, whole_at=2), roles=role) as session:
        after = layer.register_forward_hook(lambda m, args, output: final.append(output))
        for t in (900, 700, 500, 300):
            predict(unet, latents(t=t, seed=t))
        report = session.report()
    before.remove()
    after.remove()
    plans = [MergePlan.from_target(*pairs(256, 10 - step)) for step in range(4)]
    assert torch.equal(final[0], plans[0].unmerge(raw[0])) and torch.equal(final[2], raw[2])
    for step in (1, 3):
        new, shared = plans[step].unmerge(raw[step]), torch.arange(256) < 20 - 2 * step
        torch.testing.assert_close(final[step], torch.where(shared[:, None], 0.75 * new + 0.25 * final[step - 1], new))
        assert not torch.equal(final[step], new)
    held = sum(2 * n * c * 4 for n, c in [(256, 16)] * 3 + [(64, 32)] * 4)
    assert report.recorded["output"] == held and f"recorded for 'output': {held / 1e6:.3g} MB" in str(report)
    assert report.recorded["prediction"] == 3 * 2 * 4 * 256 * 4 and report.recorded["age"] == 2 * 4 * (3 * 256 + 4 * 64)


def test_outputs_of_two_calls_a_step_are_kept_apart(watching):
    strategy, _ = watching
    model, inputs = build("wan")
    other = inputs | {"encoder_hidden_states": inputs["encoder_hidden_states"] * 3}

    def run(rows):
        found = []
        with merging(model, strategy(keep=0.5), roles="feed_forward"):
            for t in (900, 700, 500):
                found.append([predict_family(model, r | {"timestep": torch.full_like(r["timestep"], t)}) for r in rows])
        return found

    both, one, two = run([inputs, other]), run([inputs]), run([other])
    for together, a, b in zip(both, one, two, strict=True):
        assert torch.equal(together[0], a[0]) and torch.equal(together[1], b[0])


def test_a_whole_block_keeps_its_last_output_too(unet, latents, predict, watching):
    strategy, _ = watching
    outputs = []
    for keep in (0.0, 0.5):
        with merging(unet, strategy(keep=keep), roles="block"):
            outputs.append([predict(unet, latents(t=t, seed=t)) for t in (900, 700)])
    assert torch.equal(outputs[0][0], outputs[1][0]) and not torch.equal(outputs[0][1], outputs[1][1])


def test_a_plan_that_keeps_what_is_not_recorded_is_refused_in_one_line(unet, latents, predict, watching, count_hooks):
    strategy, _ = watching
    with pytest.raises(ValueError, match="expected 'output'") as raised, merging(unet, strategy(words=(), keep=0.5)):
        predict(unet, latents())
    assert "\n" not in str(raised.value) and count_hooks(unet) == 0
    with pytest.raises(ValueError, match=r"keep in \[0, 1\], got 1.5"):
        MergePlan.from_target(*pairs(4), keep=1.5)


def test_age_counts_the_steps_since_a_token_was_alone(unet, latents, predict, watching):
    strategy, seen = watching
    with merging(unet, strategy(whole_at=3)):
        for t in (900, 800, 700, 600, 500, 400):
            predict(unet, latents(t=t))
    ages = given(seen, "age")
    tokens = torch.arange(256)
    expected = [None, 1 * (tokens < 20), (tokens < 20) * 1 + (tokens < 18), (tokens < 18) + 1 * (tokens < 16) + (tokens < 16)]
    assert ages[0] is None
    for step, age in enumerate(ages[1:3], 1):
        assert age.shape == (2, 256) and torch.equal(age[0], expected[step].float() * (tokens < 22 - 2 * step))
    assert torch.equal(ages[3][0], 3.0 * (tokens < 16)) and not ages[4].any() and torch.equal(ages[5][1], 1.0 * (tokens < 12))


def test_age_counts_steps_not_plans(unet, latents, predict, watching):
    strategy, seen = watching
    with merging(unet, strategy(), refresh=3):
        for t in range(900, 200, -100):
            predict(unet, latents(t=t))
    tokens = torch.arange(256)
    ages = given(seen, "age")
    assert torch.equal(ages[1][0], 3.0 * (tokens < 20)) and torch.equal(ages[2][0], 6.0 * (tokens < 14))


def test_a_plan_serves_the_roles_that_it_names(unet, latents, predict, watching):
    strategy, _ = watching
    named = strategy(roles_of_plan=("feed_forward",))
    with merging(unet, named, roles=("self_attention", "feed_forward", "key_value")) as session:
        some = predict(unet, latents())
    with merging(unet, strategy(), roles="feed_forward"):
        assert torch.equal(predict(unet, latents()), some)
    granted = {row["role"]: row["granted"] for row in session.report().to_dicts() if row["site"] == SITE}
    assert granted["self_attention"] == granted["key_value"] == 0 and granted["feed_forward"] == 10 / 256
    plan = MergePlan.from_target(*pairs(4), roles=("feed_forward",))
    for each in (plan, plan.repeat(2), plan.ready(2)):
        assert serves(each, "feed_forward") and not serves(each, "self_attention")


@pytest.mark.parametrize("name", (*BY_SIGNAL, "toma"))
def test_a_prompt_is_predicted_in_a_batch_as_alone(name, unet, latents, predict):
    def run(rows):
        with merging(unet, name, share="cfg", strict=True):
            found = []
            for t in (900, 800, 700, 500, 300):
                inputs = latents(t=t, batch=4, seed=t)
                found.append(predict(unet, inputs | {k: inputs[k][rows] for k in ("sample", "encoder_hidden_states")}))
        return torch.stack(found)

    together, alone = run([0, 1, 2, 3]), run([1, 3])
    torch.testing.assert_close(together[:, [1, 3]], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", BY_SIGNAL)
def test_an_image_is_the_same_whatever_came_before_it(name, pipe, draw):
    with merging(pipe, name, strict=True):
        images = [draw(pipe, steps=4, seeds=seed) for seed in (0, 1, 0)]
    with merging(pipe, name, strict=True):
        alone = draw(pipe, steps=4, seeds=1)
    assert (images[0] == images[2]).all() and (images[1] == alone).all() and not (images[0] == images[1]).all()
    base = draw(pipe, steps=4, seeds=0)
    assert not (base == images[0]).all()


@pytest.mark.parametrize("name", BY_SIGNAL)
def test_what_is_recorded_changes_the_image(name, unet, latents, predict):
    """A strategy of a phase alone merges by its signals from the second step on."""
    settings = {"imtome": {"phase": "merging"}, "dato": {"weight": 100.0}, "sdtm": {"phase": "detail", "weight": 1.0}}[name]
    outputs = []
    for later in (800, 750):
        with merging(unet, name, share="cfg", **settings):
            for t in (900, later):
                predict(unet, latents(t=t, seed=t))
            outputs.append(predict(unet, latents(t=500)))
    assert not torch.equal(*outputs)


def test_phases_of_sdtm_follow_the_steps(pipe, draw):
    phases = []
    with merging(pipe, "sdtm", whole_every=4, switch=0.5) as session:
        session.observe(lambda x, ctx, plan, made: phases.append((ctx.site, ctx.step, plan)))
        draw(pipe, steps=8)
    one = [(step, plan) for site, step, plan in phases if site == SITE and plan is not None]
    assert [step for step, _ in one] == [0, 1, 2, 3, 5, 6, 7]
    assert [plan.roles for _, plan in one] == [None] * 4 + [("feed_forward",)] * 3
    assert all(plan.keep == 0.8 for _, plan in one)


def test_wrappers_hand_on_signals_and_phases(unet, latents, predict):
    ratio = {"name": "constant", "value": 0.5}
    outputs = []
    for spec in ({"name": "sdtm", "ratio": ratio}, {"name": "dynamic-ratio", "ratio": ratio, "inner": "sdtm"}):
        with merging(unet, make("strategy", spec)) as session:
            outputs.append(torch.stack([predict(unet, latents(t=t)) for t in (900, 700, 500, 300)]))
        assert session.report().recorded["output"] > 0
    assert torch.equal(*outputs)
