"""What the tests of recipes share: a work folder of six emoji, tiny transformers, and a training that is killed."""

from dataclasses import replace
from importlib import import_module

import pytest
import torch
from tiny import tiny_flux_transformer, tiny_wan_transformer

from mergekit_diff.experiments.models.embedded import autoencoder, cutouts, data, training

PACKAGE = "mergekit_diff.experiments.models.embedded"
RECIPES = {"emoji-flux": "flux", "emoji-video": "video"}
TINY = {"flux": tiny_flux_transformer, "video": tiny_wan_transformer}
PAIRS = [(name, style) for name in ("red-apple", "dog-face") for style in data.STYLES]


def part(recipe, name):
    """A module of a recipe's package, by the name of either."""
    return import_module(f"{PACKAGE}.{RECIPES.get(recipe, recipe)}.{name}")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def parameters(module):
    return sum(weight.numel() for weight in module.parameters())


def six_cutouts():
    return torch.randint(0, 256, (6, 4, 128, 128), generator=seeded(), dtype=torch.uint8)


def shrink(recipe, patch):
    """Make a recipe so small that a training takes seconds: a tiny transformer, six emoji, a checkpoint every two steps."""
    kind, vae = part(recipe, "recipe").RECIPE.flow, part(recipe, "vae")
    patch.setattr(part(recipe, "model"), "new_transformer", TINY[RECIPES[recipe]])
    patch.setattr(kind, "phases", {size: replace(phase, batch=2) for size, phase in kind.phases.items()})
    patch.setattr(kind, "sampling_steps", 2)
    patch.setattr(vae, "PHASE", replace(vae.PHASE, batch=1))
    patch.setattr(vae, "MEASURED", 2)
    patch.setattr(cutouts, "pairs", lambda held_out=False: PAIRS)
    patch.setattr(autoencoder, "HELD_OUT", 2)
    patch.setattr(training, "KEEP_EVERY", 2)


def fill(recipe, folder, *, vae=True):
    """Write what the stages before the transformer write; returns the folder."""
    folder.mkdir()
    torch.save({"images": six_cutouts(), "names": PAIRS}, folder / "cutouts.pt")
    if vae:
        torch.manual_seed(0)
        if recipe == "emoji-flux":
            from mergekit_diff.experiments.models.embedded.vae import new_vae

            model = part(recipe, "vae").finish(new_vae(), torch.rand(2, 3, 32, 32))
        else:
            model = part(recipe, "vae").with_moments(part(recipe, "model").new_vae(), torch.rand(2, 3, 5, 32, 32))
        model.save_pretrained(folder / "vae")
    return folder


def state(folder, training_name):
    return torch.load(training.last_checkpoint(folder, training_name), weights_only=True)["state_dict"]


def assert_same(found, expected):
    assert found.keys() == expected.keys() and all(torch.equal(found[name], value) for name, value in expected.items())


def kill_and_resume(monkeypatch, module, train):
    """Train up to four steps, with a kill in the fourth and a checkpoint after the second.

    Args:
        module: the class that is trained.
        train: trains up to four steps.
    """
    step, reached = module.training_step, []

    def dies(self, batch, index):
        reached.append(self.global_step)
        if self.global_step == 3 and len(reached) == 4:
            raise SystemExit("killed")
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(module, "training_step", dies)
        with pytest.raises(SystemExit):
            train()
        train()
    assert reached == [0, 1, 2, 3, 2, 3]
