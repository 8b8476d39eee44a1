"""Attention that takes a whole image: keys and values merge inside it, beside those of the text."""

import pytest
import torch
from test_families import Pairs, relative
from tiny_families import build, predict

from mergekit_diff import merging
from mergekit_diff.sites import find_sites

NAMES = ("cascade", "kandinsky22", "kandinsky3", "unet2d")


def as_copies(model):
    """Every second token of each block's image becomes a copy of the one before it."""

    def copy(module, args, kwargs):
        x = args[0] if args else kwargs["hidden_states"]
        copied = x.flatten(2)[:, :, torch.arange(x[0, 0].numel()) // 2 * 2].view_as(x)
        return ((copied, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": copied})

    for site in find_sites(model):
        if site.offers("key_value"):
            site.block.register_forward_pre_hook(copy, with_kwargs=True)


@pytest.mark.parametrize("name", NAMES)
def test_merging_the_keys_of_exact_copies_changes_nothing(name):
    model, inputs = build(name)
    as_copies(model)
    base = predict(model, inputs)
    with merging(model, Pairs(), roles="key_value", strict=True):
        assert relative(predict(model, inputs), base) < 2e-5


@pytest.mark.parametrize("name", NAMES[:2])
def test_copies_lose_weight_against_the_text_without_log_sizes(name):
    model, inputs = build(name)
    as_copies(model)
    base = predict(model, inputs)
    with merging(model, Pairs(), roles="key_value", proportional=False):
        assert relative(predict(model, inputs), base) > 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_levels_are_resolutions_from_the_finest_on(name):
    model, inputs = build(name)
    sides = {}
    with merging(model, "retom", window=2, roles="key_value") as session:
        session.observe(lambda x, ctx, plan, made: sides.setdefault(ctx.level, set()).add(ctx.grid))
        predict(model, inputs)
    grids = [sides[level].pop() for level in sorted(sides) if len(sides[level]) == 1]
    assert len(grids) == len(sides) == max(sides) + 1 and grids == sorted(grids, reverse=True)
