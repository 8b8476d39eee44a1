"""What a strategy asks for, it is given: the same noise at every step, its last plan, the input of the attention itself."""

import dataclasses
import weakref
from itertools import pairwise

import pytest
import torch
from test_compile import Graphs
from test_sites import ToyLine, register_toys
from tiny import tiny_unet
from torch import nn

from mergekit_diff import MergePlan, MergeStrategy, RatioSchedule, Site, WindowSchedule, make, merging, register_family
from mergekit_diff.schedules import Constant
from mergekit_diff.signals import SIGNALS, asked, toy_signals
from mergekit_diff.strategies.wrapper import Wrapper

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


def test_needs_are_all_asked_for_unless_settings_say_otherwise():
    @dataclasses.dataclass(frozen=True)
    class Needs(MergeStrategy):
        """Both."""

        needs = tuple(SIGNALS)

        def plan(self, x, ctx):
            return None

    assert asked(Needs()) == tuple(SIGNALS) and Needs().memory is None
    for name in ("retom", "random-dest"):
        assert asked(make("strategy", name)) == ()
        assert asked(make("strategy", {"name": name, "tokens": "normalized"})) == ("normalized",)
        keeping = make("strategy", {"name": name, "keep_representatives": 4})
        assert asked(keeping) == ("last_plan",) and keeping.memory == 4
        wrapper = make("strategy", {"name": "dynamic-ratio", "inner": keeping})
        assert isinstance(wrapper, Wrapper) and asked(wrapper) == ("last_plan",) and wrapper.memory == 4
    assert asked(make("strategy", "tomesd")) == ()


def test_a_wrapper_passes_the_last_plan_on_and_keeps_its_own_ratio():
    @dataclasses.dataclass(frozen=True)
    class Follows(MergeStrategy):
        """Both, of which one is the wrapper's."""

        ratio: RatioSchedule = Constant(0.5)
        groups: int = 0

        def after(self, last):
            return dataclasses.replace(self, ratio=Constant(0.1), groups=last.num_groups)

        def plan(self, x, ctx):
            return None

    last = MergePlan(torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long))
    wrapper = make("strategy", {"name": "dynamic-ratio", "ratio": 0.7, "inner": Follows()})
    after = wrapper.after(last)
    assert after.inner == Follows(Constant(0.7), groups=1) and after.ratio == wrapper.ratio
    assert after.after(last) == after and hash(after.after(last)) == hash(after)
    still = make("strategy", "dynamic-ratio")
    assert still.after(last) is still


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


def test_plan_made_again_for_an_observer_is_the_one_in_use(unet, latents, predict):
    found = []
    with merging(unet, "retom", keep_representatives=3, refresh=1, window=4) as session:
        session.observe(lambda x, ctx, plan, made: found.append((plan, session.fresh_plan(x, ctx), made)))
        for t in (900, 700, 500, 300, 100):
            predict(unet, latents(t=t))
    assert len(found) == 35 and all(made and torch.equal(plan.assign, fresh.assign) for plan, fresh, made in found)


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


@pytest.mark.parametrize("share", ((), ("cfg",)), ids=str)
def test_keys_are_those_of_the_attention_averaged_over_its_heads(share, unet, latents, predict, asking):
    strategy, seen = asking
    attention, keys = unet.get_submodule(SITE).attn1, []
    handle = attention.to_k.register_forward_hook(lambda module, args, output: keys.append(output))
    with merging(unet, strategy(words=("keys",)), share=share, roles="feed_forward"):
        predict(unet, latents(t=900))
    handle.remove()
    ((ctx, x, _),) = at(seen)
    assert len(keys) == 1 and attention.heads > 1  # what hooks the map of keys is not called for a plan
    averaged = torch.stack(keys[0][-len(x) :].chunk(attention.heads, -1)).mean(0)
    torch.testing.assert_close(ctx.signals["keys"], averaged)


def test_without_keys_a_block_gives_its_input(unet, latents, predict, asking):
    strategy, seen = asking
    unet.get_submodule(SITE).norm_type = "ada_norm_single"
    with merging(unet, strategy(words=("keys",)), roles="cross_attention"):
        with pytest.raises(Exception):  # noqa: B017  such a norm asks for more than this block has
            predict(unet, latents(t=900))
    ((ctx, x, _),) = at(seen)
    assert ctx.signals["keys"] is x


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


def test_normalized_tokens_are_those_that_retom_compares(unet, latents, predict, tokens, context):
    x = tokens(2, 64)
    normalized = nn.functional.layer_norm(x, x.shape[-1:])
    strategy = make("strategy", {"name": "retom", "tokens": "normalized"})
    plan = strategy.plan(x, context((8, 8), signals=toy_signals(strategy, x)))
    expected = make("strategy", "retom").plan(normalized, context((8, 8)))
    assert torch.equal(plan.assign, expected.assign)
    assert not torch.equal(plan.assign, make("strategy", "retom").plan(x, context((8, 8))).assign)
    outputs = []
    for each in ("block", "normalized"):
        with merging(unet, "retom", tokens=each, strict=True):
            outputs.append(predict(unet, latents()))
    assert not torch.equal(*outputs)


@pytest.mark.parametrize("change", ({"norm_type": "ada_norm_single"}, {"norm_type": "ada_norm"}, {"pos_embed": nn.Identity()}))
def test_block_whose_norm_reads_more_than_tokens_is_refused_in_one_line(change, unet, count_hooks):
    for name, value in change.items():
        setattr(unet.get_submodule(SITE), name, value)
    with pytest.raises(ValueError) as raised, merging(unet, "retom", tokens="normalized"):
        pass
    message = str(raised.value)
    assert "'normalized'" in message and SITE in message and "1 of 7" in message and "\n" not in message
    assert count_hooks(unet) == 0


def test_own_model_gives_what_its_family_says(families, tokens):
    register_toys()
    with pytest.raises(ValueError, match="2 of 2 blocks"), merging(ToyLine(), "retom", tokens="normalized"):
        pass

    @register_family("ToyLine")
    def line(model):
        for i, block in enumerate(model.blocks):
            yield Site(f"blocks.{i}", block, roles={"self_attention": block.attn}, normalize=nn.Identity())

    torch.manual_seed(0)
    toy, outputs = ToyLine(), []
    for each in ("block", "normalized"):
        with merging(toy, "retom", tokens=each, strict=True):
            outputs.append(toy(tokens(2, 16), 500))
    assert torch.equal(*outputs)


def test_kept_representatives_change_when_their_steps_are_over(unet, latents, predict):
    """Random ones, so that they would change at every step; sources change at every step all the same."""
    kept, groups = [], []
    options = {"representative": "random", "keep_representatives": 2, "refresh": 1, "window": 4, "ratio": 0.5}
    with merging(unet, "retom-paper", **options) as session:
        for t in (900, 700, 500, 300):
            predict(unet, latents(t=t, seed=t))
            plan, _ = session.plans()[SITE, "self_attention"]
            kept.append(plan.positions)
            groups.append(plan.assign)
    same = [torch.equal(a, b) for a, b in pairwise(kept)]
    assert same == [True, False, True]
    assert not any(torch.equal(a, b) for a, b in pairwise(groups))


def test_representatives_kept_no_longer_than_the_plan_change_nothing(unet, latents, predict):
    outputs = []
    for keep in (1, 2):
        with merging(unet, "retom", refresh=2, keep_representatives=keep, window=4):
            outputs += [torch.stack([predict(unet, latents(t=t, seed=t)) for t in (900, 700, 500, 300)])]
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("options", "graphs"),
    [
        ({"tokens": "normalized", "refresh": 3}, 2),
        ({"keep_representatives": 4, "refresh": 1}, 2),  # one that chooses representatives, one that knows them
        ({"keep_representatives": 4, "refresh": 2, "tokens": "normalized", "rank": "grid"}, 3),  # and one that keeps the plan
        ({"keep_representatives": 4, "refresh": 2, "representative": "random", "share": "cfg"}, 3),
    ],
    ids=str,
)
def test_compiled_session_gives_signals_from_few_graphs(options, graphs):
    one_level = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
    unet = tiny_unet(block_out_channels=(16,), mid_block_type=None, **one_level)
    torch._dynamo.reset()

    @torch.no_grad()
    def trajectory():
        generator = torch.Generator().manual_seed(0)
        sample, text = torch.randn(2, 4, 16, 16, generator=generator), torch.randn(2, 6, 32, generator=generator)
        return torch.stack([unet(sample, t, text).sample for t in torch.linspace(999, 1, 12).long()])

    with merging(unet, "retom", window=4, **options):
        expected = trajectory()
    found = Graphs()
    with merging(unet, "retom", window=4, **options) as session:
        session.compile(backend=found)
        torch.testing.assert_close(trajectory(), expected, atol=1e-4, rtol=0)
    assert found.count == graphs
    torch._dynamo.reset()
