"""Consecutive blocks on the same merged tokens: one merge before the first, one unmerge after the last."""

from dataclasses import dataclass

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from tiny_families import FAMILIES, build, predict
from tiny_family import Pairs, changed, randn, strengthened

from mergekit_diff import MergePlan, MergeStrategy, Site, merging
from mergekit_diff.sites import find_sites
from mergekit_diff.spans import spans

REFUSED = {
    "hunyuan_dit": "take the tokens of earlier ones",
    "wan_vace": "adds to the tokens",
    "wan_animate": "adds to the tokens",
} | {name: "the tokens" for name in FAMILIES if name.endswith("_controlnet") and "block" not in FAMILIES[name].lacking}
ALONE = ("audioldm2", "controlnet_xs", "dreamlite", "unet3d", "latte", "motion", "nucleus")
DEEPER = {"num_layers": 2, "num_single_layers": 2, "num_mmdit_layers": 2, "num_single_dit_layers": 2, "depth": 2}
SEVERAL = [
    name
    for name, tiny in FAMILIES.items()
    if tiny.grid is not None and "block" not in tiny.lacking and name not in (*REFUSED, *ALONE, "flux_controlnet_union")
]


def deeper(name):
    """A model of a family with two blocks in every list."""
    model, inputs = build(name)
    known = {key: number for key, number in DEEPER.items() if getattr(model.config, key, 2) == 1}
    if known and "text_encoder_layers" in inputs:  # one for every block
        inputs["text_encoder_layers"] *= 2
    if known and "encoder_hidden_states_llama3" in inputs:
        known |= {"llama_layers": [0, 1, 0, 1]}
    return (strengthened(changed(model, **known)) if known else model), inputs


class Watch:
    """What blocks are called with and what they return, in order, while it is open."""

    def __init__(self, sites):
        self.sites, self.given, self.returned, self.calls = sites, [], [], []

    def __enter__(self):
        self.handles = []
        for site in self.sites:
            self.handles.append(site.block.register_forward_pre_hook(self.enter, with_kwargs=True))
            self.handles.append(site.block.register_forward_hook(lambda _, args, output, site=site: self.leave(site, output)))
        return self

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()

    def enter(self, block, args, kwargs):
        self.given.append(kwargs.get("hidden_states", *args[:1]))
        self.calls.append((args, kwargs))

    def leave(self, site, output):
        self.returned.append(output[site.output] if isinstance(output, tuple) else output)


@pytest.mark.parametrize("name", SEVERAL)
def test_tokens_stay_merged_from_the_first_block_to_the_last(name, count_hooks):
    model, inputs = deeper(name)
    hooks, base = count_hooks(model), predict(model, inputs)
    span = next(span for span in spans(find_sites(model), 2) if len(span) == 2)
    with merging(model, Pairs(), roles="block", span=2, strict=True) as session, Watch(span) as watch:
        merged = predict(model, inputs)
    (first, second), (between, after) = watch.given, watch.returned
    assert second is between and second.shape[1] == first.shape[1] < after.shape[1]
    assert merged.isfinite().all() and not torch.equal(merged, base)
    rows = {row["site"]: row for row in session.report().to_dicts() if row["calls"]}
    assert {site.name for site in find_sites(model) if site.offers("block")} == set(rows)
    assert [rows[site.name]["plans"] > 0 for site in span] == [True, False]
    assert count_hooks(model) == hooks and torch.equal(predict(model, inputs), base)


@pytest.mark.parametrize("name", ("wan", "sd3", "pixart", "flux"))
def test_two_blocks_compute_what_they_compute_on_merged_tokens_one_after_the_other(name):
    model, inputs = deeper(name)
    span = next(span for span in spans(find_sites(model), 2) if len(span) == 2)
    with Watch(span) as base:
        predict(model, inputs)
    x = base.given[0]
    plan = Pairs().plan(x, None)

    def short(table):
        """Rows of the tokens that are kept; those of the text, if there are any, are in front."""
        axis = next(axis for axis, length in enumerate(table.shape) if length >= plan.num_tokens)
        text = table.shape[axis] - plan.num_tokens
        return table.index_select(axis, torch.cat([torch.arange(text), text + plan.rep[0]]))

    tokens, text = plan.merge(x), {}
    for site, given, (args, kwargs) in zip(span, base.given, base.calls, strict=True):
        args = [tokens if value is given else tuple(map(short, value)) if isinstance(value, tuple) else value for value in args]
        kwargs = {key: tokens if value is given else value for key, value in kwargs.items()} | text
        kwargs |= {key: tuple(map(short, tables)) for key, tables in kwargs.items() if key == "image_rotary_emb"}
        with torch.no_grad():
            output = site.block(*args, **kwargs)
        if isinstance(output, tuple):
            output, text = output[site.output], {"encoder_hidden_states": output[1 - site.output]}
        tokens = output
    with merging(model, Pairs(), roles="block", span=2, proportional=False), Watch(span) as merged:
        predict(model, inputs)
    torch.testing.assert_close(merged.returned[1], x + plan.unmerge(tokens - plan.merge(x)), atol=1e-5, rtol=1e-4)


class Blocks(torch.nn.Module):
    """Blocks of a U-Net in a list, between which the tokens may change."""

    def __init__(self, between=lambda tokens: tokens, number=3):
        super().__init__()
        self.blocks = torch.nn.ModuleList(BasicTransformerBlock(16, 2, 8) for _ in range(number))
        self.between = between

    def forward(self, tokens):
        for i, block in enumerate(self.blocks):
            tokens = block(tokens if i == 0 else self.between(tokens))
        return tokens


@pytest.fixture
def blocks(families):
    families.register_family("Blocks")(
        lambda model: [
            Site(f"blocks.{i}", block, roles={"self_attention": block.attn1, "block": block})
            for i, block in enumerate(model.blocks)
        ]
    )
    return Blocks


def test_copies_merge_without_loss_in_all_blocks_where_keys_have_log_sizes(blocks):
    torch.manual_seed(0)
    model, x = blocks().eval(), randn(2, 8, 16)
    copies = torch.cat([x.repeat_interleave(2, 1), randn(2, 4, 16, seed=1)], 1)
    plan = MergePlan.from_target(torch.tensor([[0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14, 16, 17, 18, 19]]), 12)

    @dataclass(frozen=True)
    class Copies(MergeStrategy):
        """Merges copies."""

        def plan(self, x, ctx):
            return plan

    with torch.no_grad():
        base = model(copies)
        with merging(model, Copies(), roles="block", span=3, proportional=True):
            torch.testing.assert_close(model(copies), base, atol=1e-5, rtol=1e-5)
        with merging(model, Copies(), roles="block", span=3):
            assert (model(copies) - base).abs().max() > 1e-3


def test_a_model_that_changes_the_tokens_between_its_blocks_is_refused(blocks):
    with merging(blocks(lambda tokens: 2 * tokens), Pairs(), roles="block", span=2) as session:
        with pytest.raises(ValueError, match=r"blocks\.0 and blocks\.1 cannot share merged tokens: .*; leave out span"):
            session.model(randn(1, 8, 16))
        session.remove_hooks()


def test_tokens_that_do_not_merge_may_change_between_blocks(blocks, quiet):
    model, x = blocks(lambda tokens: 2 * tokens), randn(1, 8, 16)
    base = model(x)
    with merging(model, "retom", window=4, ratio=0, roles="block", span=3):
        assert torch.equal(model(x), base)


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_a_model_whose_blocks_cannot_share_tokens_is_refused_with_the_reason(name, reason):
    model, _ = build(name)
    with pytest.raises(ValueError, match=f"span=2: expected blocks that follow each other, got none .*: .*{reason}"):
        merging(model, Pairs(), roles="block", span=2)


@pytest.mark.parametrize("name", ALONE)
def test_a_model_that_has_one_block_a_list_is_refused(name):
    with pytest.raises(ValueError, match=r"span=2: expected blocks that follow each other, got none .*a list of its own"):
        merging(build(name)[0], Pairs(), roles="block", span=2)


@pytest.mark.parametrize("name", ("sd3", "qwen_image"))
def test_a_control_that_is_added_between_blocks_is_refused_by_name(name):
    model, inputs = deeper(name)
    argument = {"sd3": "block_controlnet_hidden_states", "qwen_image": "controlnet_block_samples"}[name]
    with merging(model, Pairs(), roles="block") as session:
        predict(model, inputs)
    added = {argument: [torch.zeros(1)]}
    with merging(model, Pairs(), roles="block", span=2) as session:
        with pytest.raises(ValueError, match=f"expected no '{argument}', which is added to the tokens between blocks"):
            predict(model, inputs | added)
        session.remove_hooks()


WRONG = {
    "another role": ({"roles": "self_attention"}, "roles='block', got self_attention"),
    "a gate": ({"roles": "block", "gate": "auto"}, "gate='none'"),
    "no block": ({"roles": "block", "span": 0}, "span to be a whole number of at least 1, got 0"),
    "half a block": ({"roles": "block", "span": 1.5}, "span to be a whole number of at least 1, got 1.5"),
}


@pytest.mark.parametrize(("options", "hint"), WRONG.values(), ids=WRONG)
def test_wrong_options_are_one_line(options, hint, blocks):
    with pytest.raises(ValueError, match=hint) as raised:
        merging(blocks(), Pairs(), **{"span": 2} | options)
    assert "\n" not in str(raised.value)


def test_a_strategy_that_reads_the_outputs_of_layers_is_refused():
    with pytest.raises(ValueError, match="does not read the outputs"):
        merging(build("wan")[0], "sdtm", roles="block", span=2)


def test_a_compiled_session_of_spans_is_the_eager_one():
    torch._dynamo.reset()
    model, inputs = deeper("flux")
    with merging(model, "retom", window=2, roles="block", span=2, refresh=5) as session:
        eager = [predict(model, inputs | {"timestep": torch.full((2,), t)}) for t in (0.9, 0.6, 0.3)]
        session.new_image()
        session.compile(backend="aot_eager")
        compiled = [predict(model, inputs | {"timestep": torch.full((2,), t)}) for t in (0.9, 0.6, 0.3)]
    torch._dynamo.reset()
    for a, b in zip(compiled, eager, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
