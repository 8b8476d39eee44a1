"""A strategy whose plan is wrong is refused before an image is made, in one line that says what is wrong."""

from dataclasses import dataclass

import pytest
import torch

from mergekit_diff import MergePlan, MergeStrategy, make
from mergekit_diff.experiments.study.rehearsal import planning_for, rehearse


def pairs(x, groups=None):
    """Every second token merges into the one before it."""
    target = torch.arange(x.shape[1]).repeat(len(x), 1)
    target[:, 1::2] -= 1
    return MergePlan.from_target(target, x.shape[1] // 2 if groups is None else groups)


def strategy(function):
    @dataclass(frozen=True)
    class Wrong(MergeStrategy):
        name = "wrong"

        def plan(self, x, ctx):
            return function(x)

    return Wrong()


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: pairs(x, x.shape[1] // 2 + 2), "expected a plan of 34 groups"),
        (lambda x: pairs(x, x.shape[1]), "expected a plan of 64 groups"),
        (lambda x: torch.zeros(3), "expected plan to return a plan or None, got Tensor"),
        (lambda x: pairs(x[:, ::2]), "expected a plan of 64 tokens, got one of 32"),
        (lambda x: MergePlan.from_target(torch.arange(x.shape[1]), 3), r"expected targets of shape \(B, N\), got \(64,\)"),
    ],
)
def test_what_is_no_plan_is_refused(function, said):
    with pytest.raises(ValueError, match=said) as error:
        rehearse(strategy(function), ["self_attention"])
    assert "\n" not in str(error.value)


def test_a_right_plan_and_no_plan_pass():
    rehearse(strategy(pairs), ["self_attention"])
    rehearse(strategy(lambda x: None), ["self_attention"])


@pytest.mark.parametrize("name", planning_for(2))
def test_every_strategy_passes(name):
    rehearse(make("strategy", name), ["self_attention"], grid=(16, 16))
