"""Laws of merging in the cache of a causal language model."""

import copy
import warnings
from dataclasses import dataclass, replace

import pytest
import torch
import transformers
from tiny_language import LANGUAGE, build, logits, prompt
from transformers import cache_utils

from mergekit_diff import MergePlan, MergeStrategy, RatioSchedule, make, merging, names
from mergekit_diff.schedules import Constant
from mergekit_diff.sites import ROLES, find_sites

TYPES = ("llama", "gpt2")
BACKENDS = ("sdpa", "eager")
STRATEGIES = ("retom", "tomesd", "local-match", "random-dest")
KEEP = (2, 4)
"""Tokens that stay whole in texts as short as these."""


@dataclass(frozen=True)
class Pairs(MergeStrategy):
    """In some layers every second token merges into the one before it."""

    ratio: RatioSchedule = Constant(0.5)
    layers: tuple[int, ...] = (0, 1)

    def plan(self, x, ctx):
        target = torch.arange(x.shape[1])
        return MergePlan.from_target((target - target % 2)[None], (x.shape[1] + 1) // 2) if ctx.depth in self.layers else None


@dataclass(frozen=True)
class Recounted(MergeStrategy):
    """ReToM's plans, with their groups counted in another order."""

    ratio: RatioSchedule = Constant(0.5)

    def plan(self, x, ctx):
        plan = make("strategy", {"name": "retom", "window": 4}).plan(x, ctx)
        order = torch.randperm(plan.num_groups, generator=torch.Generator().manual_seed(3))
        return MergePlan(order[plan.assign], plan.rep[:, order.argsort()])


def relative(a, b):
    return float((a - b).norm() / b.norm())


def generate(model, text, new=8, **options):
    settings = {"max_new_tokens": new, "do_sample": False, "return_dict_in_generate": True, "output_logits": True} | options
    return model.generate(text, attention_mask=torch.ones_like(text), **settings)


def lengths(cache):
    return [(layer.keys.shape[-2], layer.get_seq_length()) for layer in cache.layers]


def steps(text):
    """The tokens one by one."""
    return text.split(1, 1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LANGUAGE)
def test_ratio_zero_is_the_base_to_the_bit(name, backend, quiet):
    model, text = build(name, attn_implementation=backend), prompt(40, rows=2)
    base = generate(model, text)
    with merging(model, "retom", ratio=0):
        merged = generate(model, text)
    assert torch.equal(merged.sequences, base.sequences)
    assert all(torch.equal(a, b) for a, b in zip(merged.logits, base.logits, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LANGUAGE)
def test_the_cache_is_as_short_as_granted_and_the_model_is_restored(name, backend, count_hooks):
    model, text = build(name, attn_implementation=backend), prompt(40, rows=2)
    hooks, base = count_hooks(model), generate(model, text)
    with merging(model, "retom", ratio=0.5, window=4, strict=True) as session:
        merged = generate(model, text)
    assert lengths(merged.past_key_values) == [(40 - 10 + 7, 47)] * 2
    assert torch.equal(merged.logits[0], base.logits[0]) and not torch.equal(merged.logits[1], base.logits[1])
    assert torch.stack(merged.logits).isfinite().all()
    rows = session.report().to_dicts()
    assert [row["site"] for row in rows] == [site.name for site in find_sites(model)]
    for row in rows:
        assert (row["role"], row["grid"], row["tokens"], row["kept"]) == ("key_value", (20,), 20, 10)
        assert (row["asked"], row["granted"], row["plans"], row["calls"]) == (0.5, 0.5, 1, 1)
        assert row["note"].startswith("instead of self_attention: a token that merges with a later one would see the future")
    assert count_hooks(model) == hooks
    again = generate(model, text)
    assert all(torch.equal(a, b) for a, b in zip(again.logits, base.logits, strict=True))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", TYPES)
def test_a_later_token_never_changes_an_earlier_logit(name, strategy):
    """Three chunks and two single tokens in one cache; every token but the first is changed in turn."""
    model, text, parts = build(name), prompt(34), (13, 10, 9, 1, 1)
    with merging(model, {"name": strategy, "ratio": 0.5}, roles="key_value", whole=KEEP, strict=True):
        base, cache = logits(model, *text.split(parts, 1))
        for position in range(1, 34):
            other = text.clone()
            other[0, position] = (other[0, position] + 7) % 64
            changed, _ = logits(model, *other.split(parts, 1))
            assert torch.equal(changed[:, :position], base[:, :position])
            assert not torch.equal(changed[:, position:], base[:, position:])
    assert all(held < length == 34 for held, length in lengths(cache))


def test_of_every_chunk_the_newest_stay_whole_and_of_the_text_the_first():
    model, text = build("llama"), prompt(60)
    whole, cache = [], None
    with merging(model, Pairs(), whole=(4, 6)) as session:
        for chunk in text.split((24, 20, 16), 1):
            _, cache = logits(model, chunk, cache=cache)
            whole.append(cache.layers[0].sizes[0].tolist())
    assert lengths(cache) == [(60 - 7 - 7 - 5, 60)] * 2
    assert whole[0] == [1] * 4 + [2] * 7 + [1] * 6
    assert whole[1] == [*whole[0], *[2] * 7, *[1] * 6] and whole[2] == [*whole[1], *[2] * 5, *[1] * 6]
    assert {row["calls"] for row in session.report().to_dicts()} == {3}
    with merging(model, Pairs(), whole=(4, 6)):
        generated = generate(model, text, prefill_chunk_size=20)
    assert lengths(generated.past_key_values) == [(60 - 5 - 7 - 7 + 7, 67)] * 2


def as_copies(model, first, newest):
    """In the cache, every second of the newest tokens but a few becomes a copy of the one before it, position and all."""

    def copied(states, number):
        old, new = states.split([states.shape[-2] - number, number], -2)
        index = torch.arange(number)
        start = max(first - old.shape[-2], 0)
        index[start : number - newest] -= (index[start : number - newest] - start) % 2
        return torch.cat([old, new[:, :, index]], -2)

    for site in find_sites(model):
        (attention,) = site.parts("key_value")

        def hook(module, args, kwargs, output, index=site.cache.index, names=site.cache.arguments):
            cache = next(kwargs[name] for name in names if name in kwargs)
            number = (args[0] if args else kwargs["hidden_states"]).shape[1]
            if number > 1:
                layer = cache.layers[index]
                layer.keys, layer.values = copied(layer.keys, number), copied(layer.values, number)

        attention.register_forward_hook(hook, with_kwargs=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layers", ((0, 1), (0,), (1,)))
@pytest.mark.parametrize("name", LANGUAGE)
def test_merging_exact_copies_changes_nothing(name, layers, backend):
    """Also where layers keep different numbers of keys, and where tokens are read in chunks: positions and masks are right."""
    model, text = build(name, attn_implementation=backend), prompt(44, rows=2)
    as_copies(model, *KEEP)
    chunks = (*text[:, :40].split((22, 18), 1), *steps(text[:, 40:]))
    base, _ = logits(model, *chunks)
    with merging(model, Pairs(layers=layers), whole=KEEP, strict=True):
        merged, cache = logits(model, *chunks)
    shorter, whole = (44 - 8 - 7, 44), (44, 44)
    assert lengths(cache) == [shorter if layer in layers else whole for layer in (0, 1)]
    assert relative(merged, base) < 1e-5
    with merging(model, Pairs(layers=layers), whole=KEEP, proportional=False):
        plain, _ = logits(model, *chunks)
    assert relative(plain, base) > 1e-3 and torch.equal(plain[:, :22], base[:, :22])


@pytest.mark.parametrize("name", TYPES)
def test_backends_agree(name):
    outputs = []
    for backend in BACKENDS:
        model = build(name, attn_implementation=backend)
        with merging(model, "retom", ratio=0.5, whole=KEEP):
            outputs.append(logits(model, *prompt(40, rows=2).split((20, 18, 1, 1), 1))[0])
    assert relative(*outputs) < 1e-5


@pytest.mark.parametrize("name", TYPES)
def test_the_order_of_groups_changes_nothing(name):
    model, text, outputs = build(name), prompt(40, rows=2), []
    for strategy in ({"name": "retom", "window": 4}, Recounted()):
        with merging(model, strategy, roles="key_value", whole=KEEP, refresh=1):
            outputs.append(logits(model, text[:, :36], *steps(text[:, 36:]))[0])
    assert relative(*outputs) < 2e-5


@pytest.mark.parametrize("name", TYPES)
def test_keys_merge_in_three_ways(name):
    model, text, outputs = build(name), prompt(36), {}
    for rotary in ("values", "pick", "mean"):
        with merging(model, Pairs(), rotary=rotary, whole=KEEP):
            _, cache = logits(model, text)
        outputs[rotary] = cache.layers[0].keys[:, :, 2], cache.layers[0].values[:, :, 2]
    _, cache = logits(model, text)
    keys, values = (states[:, :, 2:4] for states in (cache.layers[0].keys, cache.layers[0].values))
    expected = {"values": (keys[:, :, 0], values.mean(2)), "pick": (keys[:, :, 0], values[:, :, 0]),
                "mean": (keys.mean(2), values.mean(2))}  # fmt: skip
    for rotary, pair in expected.items():
        torch.testing.assert_close(outputs[rotary], pair)


@pytest.mark.parametrize("strategy", names("strategy"))
def test_every_strategy_merges_or_is_refused(strategy):
    model, text = build("llama"), prompt(60, rows=2)
    if strategy in ("dato", "imtome", "sdtm"):
        with pytest.raises(ValueError, match="which this model does not give: expected a denoiser"):
            merging(model, strategy)
        return
    if strategy == "vidtome":
        with pytest.raises(ValueError, match="expected a grid of frames"), merging(model, strategy, roles="key_value"):
            generate(model, text, new=3)
        return
    with warnings.catch_warnings(), merging(model, strategy, roles="key_value", levels=1, strict=True) as session:
        warnings.simplefilter("error")
        merged = generate(model, text, new=3)
    assert torch.stack(merged.logits).isfinite().all() and session.report().granted > 0
    assert all(held < length == 62 for held, length in lengths(merged.past_key_values))


def test_normalized_tokens_are_those_of_the_attention():
    model, text, seen = build("llama"), prompt(40), []

    @dataclass(frozen=True)
    class Seeing(Pairs):
        needs = ("normalized",)

        def plan(self, x, ctx):
            seen.append((x, ctx.signals["normalized"]))
            return super().plan(x, ctx)

    with merging(model, Seeing(), whole=KEEP):
        logits(model, text)
    assert all(torch.equal(site.block.input_layernorm(x), normalized) for site, (x, normalized) in
               zip(find_sites(model), seen, strict=True))  # fmt: skip


@pytest.mark.parametrize("name", TYPES)
def test_beams_carry_their_sizes(name):
    """The score of every beam is what its tokens score one by one, on the merged cache of its own prompt."""
    model, text = build(name), prompt(40, rows=2)
    beams = {"num_beams": 3, "num_return_sequences": 3, "output_scores": True, "length_penalty": 0.0}
    with merging(model, "retom", window=4, ratio=0.5, whole=KEEP, strict=True):
        found = generate(model, text, **beams)
        rows = text.repeat_interleave(3, 0)
        scored, cache = logits(model, rows, *steps(found.sequences[:, 40:-1]))
    words = scored[:, 39:].log_softmax(-1).gather(2, found.sequences[:, 40:, None]).squeeze(2)
    torch.testing.assert_close(words.sum(1), found.sequences_scores, atol=1e-4, rtol=1e-4)
    assert lengths(cache) == lengths(found.past_key_values) == [(47 - 17, 47)] * 2
    assert len(found.sequences.unique(dim=0)) == 6


@pytest.mark.parametrize("name", TYPES)
def test_rows_of_a_cache_move_with_their_sizes(name):
    model, text = build(name), prompt(40, rows=2)
    word = text[:1, :1].expand(2, 1)
    with merging(model, "local-match", roles="key_value", whole=KEEP, ratio=0.5):
        _, cache = logits(model, text)
        assert not torch.equal(*cache.layers[0].sizes)
        swapped, doubled, chosen = (copy.deepcopy(cache) for _ in range(3))
        expected, _ = logits(model, word, cache=cache)
        swapped.reorder_cache(torch.tensor([1, 0]))
        assert relative(logits(model, word, cache=swapped)[0], expected.flip(0)) < 1e-6
        doubled.batch_repeat_interleave(2)
        assert relative(logits(model, word.repeat(2, 1), cache=doubled)[0], expected.repeat_interleave(2, 0)) < 1e-6
        chosen.batch_select_indices(torch.tensor([1]))
        assert relative(logits(model, word[:1], cache=chosen)[0], expected[1:]) < 1e-6
        chosen.reset()
        longer = prompt(44, rows=3)
        fresh, used = (logits(model, longer, longer[:, :1], cache=held) for held in (None, chosen))
        assert torch.equal(fresh[0], used[0]) and lengths(fresh[1]) == lengths(used[1])


def test_the_same_seed_generates_the_same_text():
    model, text = build("llama"), prompt(40)

    def sample(seed):
        torch.manual_seed(5)
        with merging(model, "tomesd", roles="key_value", seed=seed, whole=KEEP):
            return generate(model, text, do_sample=True)

    first, again, other = (torch.stack(sample(seed).logits) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    state = torch.random.get_rng_state()
    with merging(model, "tomesd", roles="key_value", whole=KEEP):
        logits(model, text)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_texts_one_after_the_other_and_sessions_do_not_meet():
    model, texts = build("llama"), (prompt(40), prompt(48, seed=1))
    alone = []
    for text in texts:
        with merging(model, "retom"):
            alone.append(torch.stack(generate(model, text).logits))
    with merging(model, "retom") as session:
        both = [torch.stack(generate(model, text).logits) for text in texts]
    assert all(torch.equal(a, b) for a, b in zip(alone, both, strict=True))
    assert {row["calls"] for row in session.report().to_dicts()} == {2}


def test_a_second_turn_goes_on_where_the_first_ended():
    model, text = build("llama"), prompt(40)
    with merging(model, "retom", window=4):
        first = generate(model, text)
        longer = torch.cat([first.sequences, prompt(30, seed=2)], 1)
        second = generate(model, longer, past_key_values=first.past_key_values)
    assert lengths(second.past_key_values) == [(85 - 10 - 8, 85)] * 2  # of 31 new tokens 15 may merge, in windows of 4, 4, 4, 3


def test_a_plan_serves_one_call_whatever_refresh_says():
    model, text, outputs = build("llama"), prompt(40), []
    for refresh in (1, 20):
        with merging(model, "tomesd", roles="key_value", refresh=refresh, whole=KEEP) as session:
            outputs.append(logits(model, *text.split((20, 20), 1))[0])
        assert {row["plans"] for row in session.report().to_dicts()} == {2}
    assert torch.equal(*outputs)


def test_layers_may_share_a_plan():
    model, text = build("llama"), prompt(40)
    with merging(model, "retom", share=("grid",), whole=KEEP) as session:
        logits(model, text)
    first, second = (plan for plan, _ in session.plans().values())
    assert first is second


def test_an_exception_restores_the_model(count_hooks):
    model, text = build("llama"), prompt(40)
    hooks, base = count_hooks(model), logits(model, text)[0]
    with pytest.raises(ZeroDivisionError), merging(model, "retom"):
        logits(model, text)
        raise ZeroDivisionError
    assert count_hooks(model) == hooks and torch.equal(logits(model, text)[0], base)


def test_training_without_a_cache_merges_nothing_and_says_why():
    model, text = build("llama").train(), prompt(40)
    model(text, use_cache=False, labels=text).loss.backward()
    base = model.model.layers[0].self_attn.q_proj.weight.grad.clone()
    model.zero_grad()
    with pytest.warns(UserWarning, match=r"no token was merged in LlamaForCausalLM: .*no cache was passed \(use_cache=False\)"):
        with merging(model, "retom"):
            model(text, use_cache=False, labels=text).loss.backward()
    assert torch.equal(model.model.layers[0].self_attn.q_proj.weight.grad, base)


def test_a_short_prompt_merges_nothing_and_says_why():
    model = build("llama")
    with pytest.warns(UserWarning, match="too few tokens in a call: the 4 first and the 16 newest stay whole"):
        with merging(model, "retom"):
            generate(model, prompt(21))


@pytest.mark.parametrize("name", LANGUAGE)
@pytest.mark.parametrize("role", [role for role in ROLES if role != "key_value"])
def test_other_roles_are_refused_with_the_reason(name, role):
    model = build(name)
    reason = "no other tokens are read" if role == "cross_attention" else "would see the future"
    with pytest.raises(ValueError, match=f"expected a role of key_value; got '{role}': .*{reason}"):
        merging(model, "retom", roles=role)


def padded(text):
    mask = torch.ones_like(text)
    mask[0, :3] = 0
    return {"attention_mask": mask}


class QuantizedLayer(cache_utils.DynamicLayer):
    """As those of packages that quantize: a subclass of the layer that merges."""


def encoder_decoder():
    return transformers.EncoderDecoderCache(transformers.DynamicCache(), transformers.DynamicCache())


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ({}, {"cache_implementation": "static"}, "layers of class DynamicLayer, .* got StaticLayer"),
        ({"sliding_window": 8}, {}, "layers of class DynamicLayer, .* got DynamicSlidingWindowLayer"),
        ({}, {"past_key_values": lambda: transformers.Cache(layer_class_to_replicate=QuantizedLayer)}, "got QuantizedLayer"),
        ({}, {"past_key_values": encoder_decoder}, "got EncoderDecoderCache"),
        ({}, {"prompt_lookup_num_tokens": 3}, "crop"),
        ({}, {"assistant_model": lambda: build("mistral")}, "crop"),
        ({}, padded, "expected texts of one length, got padding in attention_mask"),
        ({}, {"attention_mask": lambda: torch.ones(1, 1, 40, 40)}, "attention_mask"),
    ],
)
def test_what_cannot_merge_is_refused_in_one_line(model, options, message):
    model, text = build("mistral", **model), prompt(40)
    options = options(text) if callable(options) else {name: v() if callable(v) else v for name, v in options.items()}
    base = logits(model, text)[0]
    with pytest.raises(ValueError, match=message) as caught, merging(model, "retom"):
        model.generate(text, **{"attention_mask": torch.ones_like(text), "max_new_tokens": 8, "do_sample": False} | options)
    assert "\n" not in str(caught.value)
    assert torch.equal(logits(model, text)[0], base)


def test_an_offloaded_cache_is_refused():
    model, cache = build("llama"), transformers.DynamicCache()
    cache.offloading = True
    with pytest.raises(ValueError, match="expected a cache that stays on the device"), merging(model, "retom"):
        logits(model, prompt(40), cache=cache)


def test_merged_keys_cannot_be_cropped():
    model = build("llama")
    with merging(model, "retom"):
        _, cache = logits(model, prompt(40))
    cache.crop(0)
    with pytest.raises(ValueError, match="expected a decoding that takes no token back"):
        cache.crop(-2)


def test_a_backend_without_log_sizes_is_refused():
    model = build("llama")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r"expected an attention of sdpa or eager, .* got flash_attention_2; or"):
        merging(model, "retom")
    merging(model, "retom", proportional=False).remove_hooks()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rotary": "before"}, "expected rotary 'values', 'pick' or 'mean' for a causal model"),
        ({"gate": "auto"}, "expected gate='none' for a causal model"),
        ({"share": "cfg"}, "expected no share='cfg' for a causal model"),
        ({"whole": 4}, r"expected whole to be two whole numbers of at least 0, \(first, newest\); got 4"),
        ({"whole": (4, -1)}, "expected whole to be two whole numbers"),
    ],
)
def test_options_without_a_meaning_are_refused(options, message, count_hooks):
    model = build("llama")
    hooks = count_hooks(model)
    with pytest.raises(ValueError, match=message):
        merging(model, "retom", **options)
    assert count_hooks(model) == hooks
    merging(model, "retom").remove_hooks()


def test_other_models_have_no_tokens_that_stay_whole(unet):
    with pytest.raises(ValueError, match="expected whole=None for a model without a cache"):
        merging(unet, "retom", whole=(4, 16))


def test_a_causal_model_is_not_compiled():
    with pytest.raises(RuntimeError, match="expected a denoiser to compile, got LlamaForCausalLM"):
        with merging(build("llama"), "retom") as session:
            session.compile()


def test_a_merged_cache_is_not_used_where_its_sizes_would_be_ignored():
    model, text = build("llama"), prompt(40)
    with merging(model, "retom"):
        _, cache = logits(model, text)
    with pytest.raises(RuntimeError, match="expected a session of `merging`"):
        logits(model, text[:, :1], cache=cache)
    with merging(model, "retom", proportional=False):
        _, cache = logits(model, text)
    logits(model, text[:, :1], cache=cache)


@pytest.mark.parametrize("name", ("cache", "past_key_values", "layer_past"))
def test_a_cache_is_found_under_every_name(name, families):
    """As releases of transformers call it."""
    model, text = build("gpt_neox"), prompt(40)
    family = families.family_of(model)
    for layer in model.gpt_neox.layers:
        layer.attention.register_forward_pre_hook(renamed("layer_past", name), with_kwargs=True)
        forward = layer.attention.forward
        layer.attention.forward = named(forward, name)
    with merging(model, Pairs(), whole=KEEP, strict=True):
        _, cache = logits(model, text)
    assert lengths(cache) == [(40 - 17, 40)] * 2
    sites = [replace(site, cache=replace(site.cache, arguments=("memory",))) for site in family.find(model)]
    families._FAMILIES["GPTNeoXPreTrainedModel"] = replace(family, find=lambda _: sites)
    with pytest.raises(ValueError, match=r"layers.0: expected an argument 'memory' in forward of the block \(\w+\), got"):
        merging(model, "retom")


def renamed(old, new):
    return lambda module, args, kwargs: (args, {new if key == old else key: value for key, value in kwargs.items()})


def named(forward, name):
    """An attention that takes its cache by another name."""
    if name == "cache":
        return lambda hidden_states, attention_mask, cache=None, **kwargs: forward(hidden_states, attention_mask, cache, **kwargs)
    if name == "past_key_values":
        return lambda hidden_states, attention_mask, past_key_values=None, **kwargs: forward(
            hidden_states, attention_mask, past_key_values, **kwargs
        )
    return forward
