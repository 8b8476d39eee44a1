"""What the laws need to know of a tiny random model, how it is built and called and what its family can do, and a strategy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from mergekit_diff import MergePlan, MergeStrategy, RatioSchedule
from mergekit_diff.schedules import Constant

H, W, FRAMES, WORDS = 8, 12, 3, 7


@dataclass(frozen=True)
class Tiny:
    """A model of a family.

    Args:
        build: makes it, and the arguments of a call.
        title: of its family's row in the table of models.
        grid: of all its sites; None for a U-Net, which has several.
        joint: whether text attends with the grid's tokens, so that there is no cross-attention.
        rows: the arguments with a row for every token.
        without: further roles that none of its blocks offers.
    """

    build: Callable[..., tuple[nn.Module, dict[str, Any]]]
    title: str
    grid: tuple[int, ...] | None = None
    joint: bool = False
    rows: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    @property
    def lacking(self) -> tuple[str, ...]:
        """The roles that none of its blocks offers."""
        return (*self.without, "cross_attention") if self.joint else self.without


@dataclass(frozen=True)
class Pairs(MergeStrategy):
    """Every second token merges into the one before it."""

    ratio: RatioSchedule = Constant(0.5)

    def plan(self, x, ctx):
        target = torch.arange(x.shape[1])
        return MergePlan.from_target((target - target % 2)[None], (x.shape[1] + 1) // 2)


FAMILIES: dict[str, Tiny] = {}


def tiny(*facts, **more):
    """Decorator: add a tiny model to those that the laws run on."""

    def known(build):
        FAMILIES[build.__name__] = Tiny(build, *facts, **more)
        return build

    return known


def strengthened(model: nn.Module) -> nn.Module:
    """Weights that are born zero, as of gates and last layers, become random: what blocks do then shows in the output."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() and not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def changed(model: nn.Module, **changes: Any) -> nn.Module:
    """A model of the same class, some of whose settings are others."""
    settings = {name: value for name, value in model.config.items() if not name.startswith("_")}
    return type(model)(**settings | changes)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def valid_words(number: int = 4) -> torch.Tensor:
    """(2, T) which words of a text are valid: all of the first row's, so many of the second's."""
    mask = torch.ones(2, WORDS, dtype=torch.bool)
    mask[1, number:] = False
    return mask


def build(name: str, **changes):
    """A model of a family with random weights, and the arguments of a call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, inputs = FAMILIES[name].build(**changes)
        return strengthened(model), inputs


@torch.no_grad()
def predict(model: nn.Module, inputs) -> torch.Tensor:
    """The output of a call; several, such as those of rows, of sound beside a video or of a ControlNet's blocks, as one line."""
    samples = [sample for sample in tree_leaves(model(**inputs, return_dict=False)) if isinstance(sample, torch.Tensor)]
    return samples[0] if len(samples) == 1 else torch.cat([sample.flatten() for sample in samples])
