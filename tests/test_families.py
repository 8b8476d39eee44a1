"""Laws of merging in every family of models, by every role that it offers."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import torch
from family_table import PAGE, RECORD, page, record
from left_out_video import VIDEO
from tiny_families import FAMILIES, JOINT, TRANSFORMERS, VIDEO_UNETS, build, predict
from tiny_family import Pairs

from mergekit_diff import Layout, MergePlan, MergeStrategy, RatioSchedule, gate, make, merging
from mergekit_diff.arguments import Signature
from mergekit_diff.ledger import Place
from mergekit_diff.rows import inside, selected, within
from mergekit_diff.schedules import Constant
from mergekit_diff.scores import PlanOfRow
from mergekit_diff.sites import ROLES, Rows, find_sites
from mergekit_diff.sites import families as registered

CELLS = [(name, role) for name, tiny in FAMILIES.items() for role in ROLES if role not in tiny.lacking]
ATTENTIONS = [(name, role) for name, role in CELLS if name in TRANSFORMERS and role in ("self_attention", "key_value", "block")]


@dataclass(frozen=True)
class Recounted(MergeStrategy):
    """ReToM's plans, with their groups counted in another order."""

    ratio: RatioSchedule = Constant(0.5)

    def plan(self, x, ctx):
        plan = make("strategy", {"name": "retom", "window": side(ctx.grid)}).plan(x, ctx)
        order = torch.randperm(plan.num_groups, generator=torch.Generator().manual_seed(3))
        return MergePlan(order[plan.assign], plan.rep[:, order.argsort()])


def side(grid):
    """Of windows with four tokens or more: which of two tokens represents the other is decided by rounding."""
    return 4 if grid is not None and len(grid) == 1 else 2


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(("name", "role"), CELLS)
def test_ratio_zero_is_the_base_to_the_bit(name, role, quiet):
    model, inputs = build(name)
    base = predict(model, inputs)
    with merging(model, "retom", ratio=0, roles=role):
        assert torch.equal(predict(model, inputs), base)


@pytest.mark.parametrize(("name", "role"), CELLS)
def test_half_of_the_tokens_merge_and_the_model_is_restored(name, role, count_hooks):
    model, inputs = build(name)
    hooks, base = count_hooks(model), predict(model, inputs)
    with merging(model, "retom", ratio=0.5, window=side(FAMILIES[name].grid), roles=role, strict=True) as session:
        merged = predict(model, inputs)
    assert merged.isfinite().all() and relative(merged, base) > 1e-4
    rows = [row for row in session.report().to_dicts() if row["calls"]]
    offered = [site.name for site in find_sites(model) if site.offers(role)]
    assert sorted(row["site"] for row in rows) == sorted(offered) and len(rows) > 0
    if FAMILIES[name].grid is not None:
        assert {row["grid"] for row in rows} == {FAMILIES[name].grid}
    assert {row["granted"] for row in rows} == {0.5}
    assert torch.equal(predict(model, inputs), base) and count_hooks(model) == hooks


@pytest.mark.parametrize("name", FAMILIES)
def test_an_exception_restores_the_model(name, count_hooks):
    model, inputs = build(name)
    hooks, base = count_hooks(model), predict(model, inputs)
    role = next(role for role in ("block", "self_attention", "key_value") if role not in FAMILIES[name].lacking)
    site = [site for site in find_sites(model) if site.offers(role) and site.parts("self_attention")][-1]
    handle = site.parts("self_attention")[0].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), merging(model, "retom", roles=role):
        predict(model, inputs)
    handle.remove()
    assert count_hooks(model) == hooks and torch.equal(predict(model, inputs), base)


@pytest.mark.parametrize(("name", "role"), CELLS)
def test_the_order_of_groups_changes_nothing(name, role):
    model, inputs = build(name)
    with merging(model, "retom", ratio=0.5, window=side(FAMILIES[name].grid), roles=role, refresh=1):
        expected = predict(model, inputs)
    with merging(model, Recounted(), roles=role):
        assert relative(predict(model, inputs), expected) < 2e-5


ROLES_OF = dict.fromkeys(
    (
        *("temb_mod", "attention_kwargs", "joint_attention_kwargs", ("lumina_next", "attention_mask")),
        *("temb", "embedded_timestep", "modulate_index", "attn_mask", "extra_pos_emb", "controlnet_residual", "mask", "vis_rope"),
        *("rotary_embedding", "position_embeddings", "video_rotary_emb", "ca_video_rotary_emb", "temb_ca_scale_shift"),
        *("temb_ca_gate", "local_seq", ("kandinsky_5", "rope"), ("longcat_audio", "rope")),
        *((name, "freqs_cis") for name in FAMILIES if name.startswith(("hunyuan", "framepack"))),
    ),
    ("block",),
)
ROLES_OF |= dict.fromkeys(
    (
        *("attention_mask", "query_rotary_emb", "audio_rotary_emb", ("stable_audio", "rotary_emb")),
        *(("ace_step", "image_rotary_emb"), ("hunyuan_video_15", "image_rotary_emb")),
        *(("kandinsky_5", "rotary_emb"), ("kandinsky_6", "rotary_emb")),
    ),
    ("self_attention",),
)
ROLES_OF["rope_q"] = ("cross_attention",)
"""Where an argument is needed, of some models or of all, if not in self-attention and block alike."""
WITH_ROWS = [
    (name, argument, role)
    for name, tiny in FAMILIES.items()
    for argument in tiny.rows
    for role in ROLES_OF.get((name, argument), ROLES_OF.get(argument, ("self_attention", "block")))
    if role not in tiny.lacking
]


def test_every_family_with_rows_is_in_the_list(families):
    declared = {(name, row.argument) for name in FAMILIES for site in find_sites(build(name)[0]) for row in site.rows}
    listed = {(name, argument) for name, tiny in FAMILIES.items() for argument in tiny.rows}
    kinds = {name: families.family_of(build(name)[0]).find for name in FAMILIES}
    assert listed <= declared
    assert {(kinds[name], argument) for name, argument in listed} == {(kinds[name], argument) for name, argument in declared}


@pytest.mark.parametrize(("name", "argument", "role"), WITH_ROWS)
def test_every_declared_row_is_needed(name, argument, role, families, monkeypatch):
    """Without one of them the outputs depend on how groups are counted, or tokens and rows no longer fit."""
    model, inputs = build(name)
    if argument == "temb" and name in ("wan_per_token", "wan_from_image", "ltx_from_image"):
        inputs["timestep"] = inputs["timestep"] * torch.linspace(0.5, 1, inputs["timestep"].shape[1])
        monkeypatch.setattr("mergekit_diff.sites.video.noisy", lambda grid, _: Layout(grid))
    family = families.family_of(model)

    def without(model):
        for site in family.find(model):
            rows = tuple(row for row in site.rows if row.argument != argument)
            yield replace(site, rows=rows, passes=site.passes | {argument})

    names = [each for each, known in families._FAMILIES.items() if known is family]
    assert any(row.argument == argument for site in find_sites(model) for row in site.rows)
    with merging(model, "retom", ratio=0.5, window=side(FAMILIES[name].grid), roles=role, refresh=1):
        expected = predict(model, inputs)
    families._FAMILIES.update(dict.fromkeys(names, replace(family, find=without)))
    try:
        with merging(model, Recounted(), roles=role):
            assert relative(predict(model, inputs), expected) > 1e-4
    except (RuntimeError, IndexError, ValueError) as error:
        assert "size" in str(error) or "shape" in str(error)


def as_copies(model):
    """Hooks that make every second token of each block's input a copy of the one before it, its position included."""
    handles = []
    for site in find_sites(model):
        if not any(site.offers(role) for role in ROLES):
            continue
        signature = Signature(site.block)

        def copy(module, args, kwargs, site=site, signature=signature):
            arguments = signature.read(args, kwargs)
            x = arguments[signature.first]
            layout = layouts[site.name]
            index = torch.arange(layout.number)
            index = (index - index % 2).expand(len(x), -1)
            changes = {
                name: within(value, layout, layout.number, lambda t: t[:, index[0]])
                for name, value in arguments.items()
                if name == signature.first or name == site.argument
            }
            for row in site.rows:
                value = changes.get(row.argument, arguments.get(row.argument))
                if value is not None:
                    changes[row.argument] = selected(value, row, layout, index)
            return signature.place(args, kwargs, changes)

        handles.append(site.block.register_forward_pre_hook(copy, with_kwargs=True))
    layouts = {}

    def read(module, args, kwargs):
        for site in find_sites(model):
            if any(site.offers(role) for role in ROLES):
                layouts[site.name] = site.layout(Signature(model).read(args, kwargs))

    handles.append(model.register_forward_pre_hook(read, with_kwargs=True))
    return handles


@pytest.mark.parametrize(("name", "role"), ATTENTIONS)
def test_merging_exact_copies_changes_nothing(name, role):
    model, inputs = build(name)
    as_copies(model)
    base = predict(model, inputs)
    with merging(model, Pairs(), roles=role, strict=True):
        assert relative(predict(model, inputs), base) < 2e-5


@pytest.mark.parametrize(("name", "role"), [(name, role) for name, role in ATTENTIONS if name in JOINT])
def test_copies_lose_weight_against_the_text_without_log_sizes(name, role):
    model, inputs = build(name)
    as_copies(model)
    base = predict(model, inputs)
    with merging(model, Pairs(), roles=role, proportional=False):
        assert relative(predict(model, inputs), base) > 2e-4


NO_FOUR_WAYS = ("flux2", "flux2_klein", "prx", "joyimage", "joyimage_with_another", "stable_audio_3", "sana_video")
"""Models with one map for queries, keys and values, so that keys cannot merge before it, or without scores."""


@pytest.mark.parametrize("name", [name for name in TRANSFORMERS if FAMILIES[name].rows and name not in NO_FOUR_WAYS])
def test_rotated_keys_merge_in_four_ways(name):
    model, inputs = build(name)
    outputs = []
    for rotary in ("values", "pick", "mean", "before"):
        with merging(model, "retom", ratio=0.5, window=2, roles="key_value", rotary=rotary, strict=True):
            outputs.append(predict(model, inputs))
    rotates = find_sites(model)[0].rotary
    assert all((relative(a, b) > 1e-6) is rotates for i, a in enumerate(outputs) for b in outputs[:i])


@pytest.mark.parametrize("name", ("flux", "qwen_image", "cogvideox", "hunyuan_dit", "flux2", "chroma", "cogview4"))
def test_rows_of_a_batch_share_a_plan_where_their_positions_are_one_table(name):
    model, inputs = build(name)
    with merging(model, "retom", window=2, roles="self_attention") as session:
        predict(model, inputs)
    plans = [plan for plan, _ in session.plans().values()]
    assert plans and all((plan.assign == plan.assign[:1]).all() for plan in plans)
    assert all("batch-shared" in row["note"] for row in session.report().to_dicts())
    with merging(model, "retom", window=2, roles="feed_forward") as session:
        predict(model, inputs)
    assert any((plan.assign != plan.assign[:1]).any() for plan, _ in session.plans().values())


@pytest.mark.parametrize("name", ("wan", "ltx", "z_image", "sd3", "pixart", "cogvideox_absolute", "sana", "lumina2", "hidream"))
def test_rows_of_a_batch_have_plans_of_their_own_elsewhere(name):
    model, inputs = build(name)
    with merging(model, "retom", window=2, roles="self_attention") as session:
        predict(model, inputs)
    assert any((plan.assign != plan.assign[:1]).any() for plan, _ in session.plans().values())


@pytest.mark.parametrize("name", FAMILIES)
def test_roles_that_a_family_does_not_offer_are_refused_with_the_reason(name):
    model, _ = build(name)
    for role in FAMILIES[name].lacking:
        reason = find_sites(model)[0].lacks(role)
        with pytest.raises(ValueError, match=f"got '{role}': {re.escape(reason)}$"), merging(model, "retom", roles=role):
            pass
        assert "\n" not in reason and ("attend in one self-attention" in reason) is (role == "cross_attention" and name in JOINT)


@pytest.mark.parametrize("name", [name for name in JOINT if "self_attention" not in FAMILIES[name].lacking])
def test_keys_cannot_merge_inside_an_attention_whose_tokens_are_merged(name):
    model, _ = build(name)
    with pytest.raises(ValueError, match="expected 'key_value' or 'self_attention', got both"):
        with merging(model, "retom", roles=("self_attention", "key_value")):
            pass


@pytest.mark.parametrize("strategy", ("retom", "tomesd", "random-dest", "local-match", "downsample", "dynamic-ratio"))
@pytest.mark.parametrize("name", ("flux", "z_image", "cogvideox", "wan", "wan_from_image", "mochi", "stable_audio"))
def test_strategies_merge_by_their_own_defaults(name, strategy):
    model, inputs = build(name)
    outputs = []
    for _ in range(2):
        with merging(model, strategy, strict=True):
            outputs.append(predict(model, inputs))
    assert torch.equal(*outputs) and outputs[0].isfinite().all()


@pytest.mark.parametrize(
    "name", ("wan_from_image", "ltx_from_image", "skyreels_from_image", "cosmos_from_image", "hunyuan_from_image")
)
@pytest.mark.parametrize("strategy", ({"name": "retom", "window": (3, 4, 4)}, "tomesd"))
def test_frames_that_a_video_is_made_from_are_never_merged(name, strategy):
    model, inputs = build(name)
    site, seen = find_sites(model)[0], []
    with merging(model, strategy, roles="self_attention", strict=True):
        part = site.parts("self_attention")[0]
        part.register_forward_pre_hook(lambda _, args, kwargs: seen.append(Signature(part).read(args, kwargs)), with_kwargs=True)
        predict(model, inputs)
    ((x, *_),) = [list(each.values()) for each in seen]
    clean, seen = x[:, :24], []
    part.register_forward_pre_hook(lambda _, args, kwargs: seen.append(Signature(part).read(args, kwargs)), with_kwargs=True)
    predict(model, inputs)
    whole = next(iter(seen[0].values()))
    assert x.shape[1] == 24 + 24 and torch.equal(clean, whole[:, :24])


@pytest.mark.parametrize("name", ("cogvideox", "wan", "ltx"))
def test_a_window_of_one_number_leaves_frames_apart(name):
    model, inputs = build(name)
    for window, apart in ((4, True), ((2, 4, 4), False)):
        with merging(model, "retom", window=window, roles="feed_forward", ratio=0.7) as session:
            predict(model, inputs)
        for plan, (_, height, width) in session.plans().values():
            frames = torch.arange(plan.num_tokens) // (height * width)
            assert bool((frames[plan.rep.gather(1, plan.assign)] == frames).all()) is apart


@pytest.mark.parametrize("name", VIDEO_UNETS)
def test_time_is_never_taken_for_an_image(name):
    """16 frames on a grid of 4 x 4: blocks over time are left out, with their reason."""
    model, inputs = build(name, frames=16, side=4)
    with merging(model, "retom", window=2, strict=True) as session:
        predict(model, inputs)
    rows = session.report().to_dicts()
    over_time = [row for row in rows if "merge over time" in row["note"]]
    assert over_time and all(row["calls"] == 0 for row in over_time)
    assert {row["grid"] for row in rows if row["calls"]} <= {(4, 4), (2, 2)}
    assert all("transformer_blocks" in row["site"] and "temp" not in row["site"] for row in rows if row["calls"])


def test_an_attention_that_bypasses_the_scores_is_left_out_and_said(monkeypatch):
    model, inputs = build("sd3")
    attention = torch.nn.functional.scaled_dot_product_attention

    class Other:
        """As a backend of another package would be: the same, by another function."""

        def __init__(self, inner):
            self.inner = inner

        def __call__(self, *args, **kwargs):
            with torch._C.DisableTorchFunction():
                return self.inner(*args, **kwargs)

    base = predict(model, inputs)
    for site in find_sites(model):
        for part in site.parts("self_attention"):
            part.set_processor(Other(part.processor))
    with pytest.warns(UserWarning, match="left out"), merging(model, "retom", window=2, roles="key_value"):
        predict(model, inputs)
    with merging(model, "retom", window=2, roles="self_attention") as session:
        predict(model, inputs)
        session.new_image()
        assert torch.equal(predict(model, inputs), base)
    assert all("left out" in row["note"] for row in session.report().to_dicts())
    assert attention is torch.nn.functional.scaled_dot_product_attention


def test_another_release_of_a_model_fails_with_a_sentence(families):
    model, _ = build("flux")
    family = families.family_of(model)

    def renamed(model):
        for site in family.find(model):
            yield replace(site, rows=tuple(replace(row, argument="rotary") for row in site.rows))

    families._FAMILIES["FluxTransformer2DModel"] = replace(family, find=renamed)
    with pytest.raises(
        ValueError,
        match=r"expected an argument 'rotary' in forward of the block \(FluxTransformerBlock\) or its parts, got attention_mask",
    ):
        with merging(model, "retom"):
            pass


@pytest.mark.parametrize("nest", (lambda t: t, lambda t: (None, {"inner": [t]})))
def test_undeclared_rows_are_refused_by_name_also_inside_tuples(nest, families):
    model, inputs = build("wan")
    family = families.family_of(model)
    families._FAMILIES["WanTransformer3DModel"] = replace(
        family, find=lambda m: [replace(site, rows=site.rows[1:]) for site in family.find(m)]
    )
    part = model.blocks[0].attn1
    part.register_forward_pre_hook(lambda _, args: (*args[:3], nest(args[3][0])))
    with pytest.raises(ValueError, match=r"blocks.0 self_attention: 'rotary_emb' has a value for every token"):
        with merging(model, "retom", roles="self_attention"):
            predict(model, inputs)


@pytest.mark.parametrize("role", ("self_attention", "key_value", "block"))
@pytest.mark.parametrize("name", ("flux", "wan"))
def test_gradient_checkpointing_changes_no_gradient(name, role):
    gradients = []
    for checkpointing in (False, True):
        model, inputs = build(name)
        if checkpointing:
            model.enable_gradient_checkpointing()
        with merging(model, "retom", window=2, roles=role):
            model(**inputs, return_dict=False)[0].square().mean().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize(("width", "kept"), [(8, 8), (3, 3)])
def test_channels_are_never_taken_for_rows(width, kept):
    """A tensor without rows may have as many channels as there are tokens."""
    rows, layout, index = Rows("temb", 1, batched=True, dims=3), Layout((4,)), torch.tensor([[0, 2], [1, 3]])
    assert selected(torch.ones(2, width), rows, layout, index).shape == (2, kept)
    assert selected(torch.ones(2, 4, width), rows, layout, index).shape == (2, 2, width)


def test_one_row_of_a_plan_is_that_row(tokens):
    x = tokens(3, 8)
    order = torch.stack([torch.arange(8).roll(row) for row in range(3)])  # another plan for every row
    target = order.gather(1, (order.argsort(1) // 2) * 2)
    plan = MergePlan.from_target(target, 4)
    for row in range(3):
        one, own = PlanOfRow(plan, 3, row), x[row, None]
        y = plan.merge(x)[row, None]
        assert torch.equal(one.merge(own), y) and torch.equal(one.select(own), plan.select(x)[row, None])
        assert torch.equal(one.unmerge(y), plan.unmerge(plan.merge(x))[row, None])
        assert torch.equal(one.sizes, plan.sizes[row, None])


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("kandinsky_5", {"sparse_params": {"to_fractal": True}}, "expected 'sparse_params' to be None"),
        ("hunyuan_from_image", {"hidden_states": torch.zeros(2, 4, 1, 8, 12)}, "expected a video of several frames"),
        ("cosmos", {"condition_mask": torch.ones(2, 1, 3, 8, 12)}, "expected a frame without clean tokens"),
    ],
)
def test_calls_without_a_grid_that_may_merge_are_refused_in_one_line(name, changes, reason):
    model, inputs = build(name)
    with pytest.raises(ValueError, match=reason) as raised, merging(model, "retom"):
        predict(model, inputs | changes)
    assert "\n" not in str(raised.value)


def test_frames_that_are_given_by_a_mask_are_not_merged():
    model, inputs = build("kandinsky_5", conditioned=True)
    edited = inputs | {"hidden_states": inputs["hidden_states"][:, :1], "visual_rope_pos": [torch.arange(s) for s in (1, 4, 6)]}
    for call, grid in ((inputs, (2, 4, 6)), (edited, (1, 4, 6))):
        with merging(model, "retom", window=2) as session:
            predict(model, call)
        assert {row["grid"] for row in session.report().to_dicts()} == {grid}


def test_what_is_left_out_exists_and_is_not_known():
    known = registered()
    for name, reason in VIDEO.items():
        assert isinstance(getattr(diffusers, name), type) and name not in known and "\n" not in reason


def test_arguments_are_found_by_position_too():
    model, inputs = build("flux")
    with merging(model, "retom", window=2, roles="block"):
        by_name = predict(model, inputs)
    with torch.no_grad(), merging(model, "retom", window=2, roles="block"):
        assert torch.equal(model(*inputs.values(), return_dict=False)[0], by_name)


def test_inside_and_within_agree(tokens):
    x, layout = tokens(2, 11), Layout((2, 3), start=-8)
    assert torch.equal(inside(x, layout), x[:, 3:9])
    assert torch.equal(within(x, layout, 6, torch.zeros_like), torch.cat([x[:, :3], 0 * x[:, 3:9], x[:, 9:]], 1))


@pytest.mark.parametrize(("name", "saves"), [("pixart", True), ("flux", False)])
def test_the_gate_knows_where_projections_are_not_saved(name, saves, tokens, monkeypatch):
    monkeypatch.setattr(gate, "speed", lambda *_: SimpleNamespace(linear=1.0, attention=0.0, call=0.0, move=0.0))
    site = find_sites(build(name)[0])[0]
    plan = Pairs().plan(tokens(1, 96), None)
    assert (gate.estimate(Place(site, ("key_value",), 0), tokens(1, 96), plan, 0.0).saves > 0) is saves


def test_only_the_short_files_of_sites_name_classes_of_models(families):
    families.family_of(build("flux")[0])
    folder = Path(families.__file__).parent
    assert all(len(file.read_text().splitlines()) <= 200 for file in folder.glob("*.py"))
    for file in folder.parent.rglob("*.py"):
        named = [name for name in families._FAMILIES if name in file.read_text()]
        assert not named or file.parent == folder, (file, named)


def test_page_and_command_say_what_the_sites_say():
    """Else run: python tests/family_table.py"""
    families = record()
    assert json.loads(RECORD.read_text(encoding="utf-8")) == families
    assert PAGE.read_text(encoding="utf-8") == page(families)
