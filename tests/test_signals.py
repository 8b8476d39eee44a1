"""What a strategy asks for, it is given: the same noise at every step, its last plan, the input of the attention itself."""

import dataclasses
import weakref

import pytest
import torch

from mergekit_diff import MergePlan, MergeStrategy, RatioSchedule, WindowSchedule, make, merging

SITE = "down_blocks.0.attentions.0.transformer_blocks.0"


@pytest.fixture
def asking():
    """A strategy that asks for signals and merges a token more at every plan, what it was given, and what it returned."""
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Asking(MergeStrategy):
        """A plan that is new at every step."""

        ratio: RatioSchedule = 0.5
        window: WindowSchedule = 2
        words: tuple[str, ...] = ()
        forgets: int | None = None

        def asks(self):
            return self.words

        @property
        def memory(self):
            return self.forgets

        def plan(self, x, ctx):
            target = torch.arange(x.shape[1]).repeat(len(x), 1)
            target[:, 1 : 2 + ctx.step] = 0
            plan = MergePlan.from_target(target, x.shape[1] - 1 - ctx.step)
            seen.append((ctx, x, plan))
            return plan

    return Asking, seen


def at(seen, site=SITE):
    return [(ctx, x, plan) for ctx, x, plan in seen if ctx.site == site]


def lasts(seen, site=SITE):
    """For every plan of a site, the number of the plan that was given as the last one; None if none was."""
    plans = [plan for _, _, plan in at(seen, site)]
    given = [ctx.signals.get("last_plan") for ctx, _, _ in at(seen, site)]
    return [next((i for i, plan in enumerate(plans) if plan is each), None) for each in given]


def test_still_noise_follows_from_seed_and_site_alone(unet, latents, predict, recorder):
    strategy, seen = recorder

    def stills(seed, batch=2, **options):
        seen.clear()
        with merging(unet, strategy(), seed=seed, **options):
            for t in (900, 600):
                predict(unet, latents(t=t, batch=batch))
        return {(ctx.site, ctx.step): ctx.still for ctx in seen}

    first, again, other = stills(0), stills(0, batch=3, roles=["feed_forward"]), stills(1)
    assert len(first) == 14
    for (site, step), still in first.items():
        assert still.min() >= 0 and still.max() < 1 and still.unique().numel() > 50
        assert torch.equal(still, again[site, step]) and not torch.equal(still, other[site, step])
        assert torch.equal(still, first[site, 0])
    assert len({tuple(still[:8].tolist()) for still in first.values()}) == 7
    assert not any(torch.equal(ctx.noise, ctx.still) for ctx in seen)


def test_still_noise_of_sites_that_share_a_plan_is_that_of_the_first(unet, latents, predict, recorder):
    strategy, seen = recorder
    with merging(unet, strategy(), share="grid", refresh=2):
        for t in (900, 600, 300):
            predict(unet, latents(t=t))
    assert [(ctx.step, ctx.grid) for ctx in seen] == [(s, g) for s in (0, 2) for g in ((16, 16), (8, 8))]
    assert torch.equal(seen[0].still, seen[2].still) and not torch.equal(seen[0].noise, seen[2].noise)


def test_a_strategy_that_asks_for_nothing_is_given_nothing(unet, latents, predict, recorder):
    strategy, seen = recorder
    with merging(unet, strategy()):
        predict(unet, latents(t=900))
        predict(unet, latents(t=600))
    assert len(seen) == 14 and not any(ctx.signals for ctx in seen)


def test_unknown_signal_is_refused_in_one_line(unet, asking, count_hooks):
    strategy, _ = asking
    wrong = strategy(words=("last_plam",))
    for each in (wrong, make("strategy", {"name": "dynamic-ratio", "inner": wrong})):
        with pytest.raises(ValueError) as raised, merging(unet, each):
            pass
        assert "did you mean 'last_plan'" in str(raised.value) and "\n" not in str(raised.value)
        assert count_hooks(unet) == 0


def test_last_plan_is_the_one_before_at_the_same_site(unet, latents, predict, asking):
    strategy, seen = asking
    with merging(unet, strategy(words=("last_plan",))):
        for t in (900, 600, 300):
            predict(unet, latents(t=t))
    assert len({ctx.site for ctx, _, _ in seen}) == 7
    for site in {ctx.site for ctx, _, _ in seen}:
        assert lasts(seen, site) == [None, 0, 1]


def test_last_plan_is_the_one_before_whatever_its_age(unet, latents, predict, asking):
    strategy, seen = asking
    with merging(unet, strategy(words=("last_plan",)), refresh=2):
        for t in (900, 700, 500, 300, 100):
            predict(unet, latents(t=t))
    assert [ctx.step for ctx, _, _ in at(seen)] == [0, 2, 4] and lasts(seen) == [None, 0, 1]


@pytest.mark.parametrize(("memory", "expected"), [(1, [None] * 5), (2, [None, 0, None, 2, None]), (3, [None, 0, 1, None, 3])])
def test_last_plan_is_withheld_when_memory_ends(memory, expected, unet, latents, predict, asking):
    strategy, seen = asking
    with merging(unet, strategy(words=("last_plan",), forgets=memory)):
        for t in (900, 700, 500, 300, 100):
            predict(unet, latents(t=t))
    assert lasts(seen) == expected


def test_memory_ends_by_steps_not_by_plans(unet, latents, predict, asking):
    strategy, seen = asking
    with merging(unet, strategy(words=("last_plan",), forgets=4), refresh=3):
        for t in range(1000, 0, -100):
            predict(unet, latents(t=t))
    assert [ctx.step for ctx, _, _ in at(seen)] == [0, 3, 6, 9] and lasts(seen) == [None, 0, None, 2]


def test_a_new_image_and_another_layout_have_no_last_plan(unet, latents, predict, asking):
    strategy, seen = asking
    with merging(unet, strategy(words=("last_plan",))) as session:
        predict(unet, latents(t=900))
        predict(unet, latents(t=700))
        predict(unet, latents(t=500, h=8, w=32))
        predict(unet, latents(t=400, h=8, w=32))
        predict(unet, latents(t=300, h=8, w=32, batch=4))
        session.new_image()
        predict(unet, latents(t=900, h=8, w=32, batch=4))
    assert lasts(seen) == [None, 0, None, 2, None, None]


def test_other_windows_have_no_last_plan_and_another_ratio_has_one(unet, latents, predict, asking):
    strategy, seen = asking
    window = {"name": "by-progress", "early": 2, "late": 4, "at": 0.55}
    with merging(unet, strategy(words=("last_plan",), window=window, ratio={"name": "linear"})):
        for t in (900, 700, 500, 300, 100):
            predict(unet, latents(t=t))
    assert lasts(seen) == [None, 0, 1, None, 3]
    seen.clear()
    with merging(unet, strategy(words=("last_plan",), window=window, forgets=3)):
        for t in (900, 700, 500, 300, 100):
            predict(unet, latents(t=t))
    assert lasts(seen) == [None, 0, 1, None, 3]


def test_where_a_strategy_left_a_site_alone_there_is_no_last_plan(unet, latents, predict):
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Sometimes(MergeStrategy):
        """At every second step."""

        needs = ("last_plan",)

        def plan(self, x, ctx):
            seen.append((ctx.step, "last_plan" in ctx.signals))
            return None if ctx.step % 2 else make("strategy", "retom").plan(x, ctx)

    with merging(unet, Sometimes()):
        for t in (900, 600, 300):
            predict(unet, latents(t=t))
    assert set(seen) == {(0, False), (1, True), (2, False)}


def test_roles_with_a_plan_of_their_own_have_a_last_plan_of_their_own(unet, latents, predict, asking):
    strategy, seen = asking
    with merging(unet, strategy(words=("last_plan",)), roles=("key_value", "feed_forward")):
        predict(unet, latents(t=900))
        predict(unet, latents(t=600))
    for role in ("key_value", "feed_forward"):
        assert lasts([each for each in seen if each[0].role == role]) == [None, 0]


def test_calls_of_one_step_have_a_last_plan_each(unet, latents, predict, asking):
    strategy, seen = asking
    with merging(unet, strategy(words=("last_plan",))):
        for t in (900, 900, 600, 600):
            predict(unet, latents(t=t))
    assert [ctx.step for ctx, _, _ in at(seen)] == [0, 0, 1, 1] and lasts(seen) == [None, None, 0, 1]


def test_sites_that_share_a_plan_share_the_last_one(unet, latents, predict, asking):
    strategy, seen = asking
    with merging(unet, strategy(words=("last_plan",)), share="grid"):
        for t in (900, 600):
            predict(unet, latents(t=t))
    assert len(seen) == 4 and lasts(seen) == [None, 0]


def test_last_plan_of_guidance_halves_is_for_the_rows_that_the_strategy_sees(unet, latents, predict, asking):
    strategy, seen = asking
    with merging(unet, strategy(words=("last_plan",)), share="cfg") as session:
        predict(unet, latents(t=900, batch=4))
        predict(unet, latents(t=600, batch=4))
    assert lasts(seen) == [None, 0]
    assert all(x.shape[0] == plan.assign.shape[0] == 2 for _, x, plan in seen)
    assert session.plans()[SITE, "self_attention"][0].assign.shape[0] == 4


@pytest.mark.parametrize("share", ((), ("cfg",), ("grid",)), ids=str)
def test_normalized_is_the_input_of_the_attention(share, unet, latents, predict, asking):
    strategy, seen = asking
    block = unet.get_submodule(SITE)
    inputs = []
    handle = block.attn1.register_forward_pre_hook(lambda m, args, kwargs: inputs.append(args[0]), with_kwargs=True)
    with merging(unet, strategy(words=("normalized",)), share=share):
        predict(unet, latents(t=900))
    handle.remove()
    ((ctx, x, _),) = at(seen)
    assert ctx.signals["normalized"].shape == x.shape
    torch.testing.assert_close(ctx.signals["normalized"], inputs[0][-len(x) :])


def test_normalized_tokens_do_not_outlive_the_plan(unet, latents, predict):
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Watching(MergeStrategy):
        """Pairs."""

        needs = ("normalized",)

        def plan(self, x, ctx):
            seen.append(weakref.ref(ctx.signals["normalized"]))
            return MergePlan.from_target(torch.arange(x.shape[1])[None] // 2 * 2, x.shape[1] // 2)

    with merging(unet, Watching()):
        predict(unet, latents())
        assert len(seen) == 7 and not any(tokens() is not None for tokens in seen)
