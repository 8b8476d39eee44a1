"""The word "preset": what it means for a family, what overrides it, and where there is none."""

import pytest
import torch
from tiny_families import build
from torch import nn

from mergekit_diff import Site, make, merging, register_family
from mergekit_diff import sites as registry
from mergekit_diff.options import OPTIONS
from mergekit_diff.target import preset_of


class Own(nn.Sequential):
    """A model of nobody's family."""


@pytest.fixture
def own(families):
    @register_family("Own", preset={"name": "retom", "window": 4, "ratio": 0.25, "roles": ("feed_forward",), "refresh": 3})
    def sites(model):
        yield Site("0", block=model[0], roles={"feed_forward": model[0][0]})

    return Own(nn.Sequential(nn.Linear(8, 8)))


def test_every_preset_is_a_strategy_and_options_of_merging(families):
    presets = {name: family.preset for name, family in registry.families().items() if family.preset is not None}
    assert "UNet2DConditionModel" in presets
    for preset in presets.values():
        strategy = make("strategy", {name: value for name, value in preset.items() if name not in OPTIONS})
        assert strategy.name == preset["name"]


def test_preset_of_a_unet_is_what_the_studies_chose(pipe, unet, latents, predict):
    with merging(unet, "local-match", ratio=0.75, stride=4, roles="key_value", levels=2, proportional=True):
        expected = predict(unet, latents())
    with merging(unet, "preset") as session:
        assert torch.equal(predict(unet, latents()), expected)
    assert session.options.roles == ("key_value",) and session.options.levels == 2 and session.options.proportional is True
    assert preset_of(pipe) == preset_of(pipe.unet)


def test_arguments_override_what_the_preset_says(own, tokens):
    with merging(own, "preset") as session:
        own(tokens(2, 64))
    assert session.options.refresh == 3 and session.report().granted == 0.25 and session.strategy.name == "retom"
    with merging(own, "preset", ratio=0.5, refresh=1, seed=7) as session:
        own(tokens(2, 64))
    assert (session.options.refresh, session.options.seed) == (1, 7) and session.report().granted == 0.5


def test_unknown_setting_of_a_preset_is_refused_in_one_line(own):
    with pytest.raises(ValueError, match="windows") as raised, merging(own, "preset", windows=2):
        pass
    assert "\n" not in str(raised.value)


def test_family_without_a_preset_is_refused_in_one_line_that_names_those_with_one():
    model, _ = build("wan")
    with pytest.raises(ValueError, match=r"WanTransformer3DModel, which has no preset; .*UNet2DConditionModel") as raised:
        merging(model, "preset")
    assert "\n" not in str(raised.value)
