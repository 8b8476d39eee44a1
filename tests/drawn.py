"""What the laws are searched over: grids, strategies with drawn settings, their tokens, and sessions of tiny models."""

import dataclasses
import math

import torch
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from tiny import tiny_unet
from tiny_families import FAMILIES, build
from tiny_family import randn, strengthened

from mergekit_diff import make, names
from mergekit_diff.experiments.study.rehearsal import planning_for, toy_context
from mergekit_diff.registry import KINDS, part_class
from mergekit_diff.sites import ROLES
from mergekit_diff.strategies.wrapper import Wrapper

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MODELS = {"unet": 2, "sd3": 2, "flux": 2, "pixart": 2, "wan": 3}
"""Tiny models, and the number of axes of their grids."""
RATIOS = st.one_of(st.sampled_from([0.0, 1 / 3, 0.5, 0.75, 0.99]), st.floats(0, 0.99))
WORDS = {
    "representative": ("highest", "upper-half", "random", "lowest"),
    "rank": ("window", "grid"),
    "draw": ("anew", "still"),
    "tokens": ("block", "normalized", "keys"),
    "phase": ("auto", "pruning", "merging", "structure", "detail", "whole"),
    "pool": ("mean", "max"),
}
NUMBERS = (0, 1, 2, 5, 0.0, 0.25, 1.0, 1.5, 40.0, True, False, None)


def often(test, examples):
    """Run a property: the same examples at every change, others every night."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    made = settings(max_examples=examples, derandomize=examples <= 100, deadline=None, database=None, suppress_health_check=slow)
    made(test)()


@st.composite
def grids(draw, most):
    """Of one to three axes: odd and prime sides, a single row, up to a number of tokens."""
    sides = draw(st.lists(st.one_of(st.sampled_from([1, 2, 4, 8, 16]), st.integers(1, 67)), min_size=1, max_size=3))
    assume(math.prod(sides) <= most)
    return tuple(sides)


def ratios(cls):
    """Those that a strategy can grant; also some that change over the steps."""
    moving = st.sampled_from([{"name": name} for name in names("ratio")])
    return st.one_of(RATIOS, RATIOS, moving) if cls.max_ratio == 1 else st.floats(0, cls.max_ratio)


@st.composite
def specs(draw, axes, depth=0):
    """A strategy that plans for grids of so many axes, with a few of its settings drawn; perhaps around another one."""
    name = draw(st.sampled_from([name for name in planning_for(axes) if depth < 2 or name != "dynamic-ratio"]))
    cls = part_class("strategy", name)
    spec = {"name": name}
    for field in dataclasses.fields(cls):
        if field.name == "inner":
            spec["inner"] = draw(specs(axes, depth + 1))
        elif field.name == "ratio":
            spec["ratio"] = draw(ratios(cls))
        elif draw(st.booleans()):
            value = draw(setting(field, axes))
            spec |= {field.name: value} if accepted(spec | {field.name: value}) else {}
    return spec


def setting(field, axes):
    """Values of a field, not all of which it takes."""
    kind = getattr(field.default, "kind", None)
    if kind == "window":
        sides = st.lists(st.integers(1, 9), min_size=axes, max_size=axes)
        return st.one_of(st.integers(1, 9), sides, st.sampled_from(names(kind)))
    if kind == "ratio":
        return RATIOS
    if kind in KINDS:
        return st.sampled_from(names(kind))
    return st.sampled_from(WORDS[field.name] if isinstance(field.default, str) else NUMBERS)


def accepted(spec):
    """Whether a strategy takes its settings; it refuses them in one line."""
    try:
        return bool(make("strategy", spec))
    except ValueError as error:
        assert "\n" not in str(error)
        return False


@st.composite
def planned(draw, most, dtypes=DTYPES):
    """The settings of a strategy that makes a plan at this step, its tokens and its context."""
    grid = draw(grids(most))
    spec = draw(specs(len(grid)))
    x = randn(draw(st.integers(1, 4)), math.prod(grid), 8, seed=draw(st.integers(0, 2**31))).to(draw(st.sampled_from(dtypes)))
    place = {"stage": draw(st.sampled_from(["down", "mid", "up", None])), "depth": draw(st.integers(0, 3)), "num_sites": 4}
    strategy = make("strategy", spec)
    ctx = toy_context(grid, strategy.defaults().roles[0], step=draw(st.integers(0, 20)), **place)
    assume(phase(strategy.at(ctx)) != "whole")
    return spec, x, ctx


def phase(strategy):
    """That of a strategy, or of the one that it wraps; None if it has none."""
    return phase(strategy.inner) if isinstance(strategy, Wrapper) else getattr(strategy, "phase", None)


def model_of(name):
    """A tiny model in eval mode, and the arguments of a call."""
    if name != "unet":
        return build(name)
    inputs = {"sample": randn(2, 4, 16, 16), "timestep": torch.tensor(500.0), "encoder_hidden_states": randn(2, 7, 32)}
    return strengthened(tiny_unet()), inputs


@st.composite
def sessions(draw):
    """The name of a model, a strategy that plans for its grids, and options of ``merging``."""
    name = draw(st.sampled_from(sorted(MODELS)))
    lacking = FAMILIES[name].lacking if name in FAMILIES else ()
    roles = st.sampled_from([role for role in ROLES if role not in lacking])
    options = {
        "roles": draw(st.one_of(st.none(), roles, st.lists(roles, min_size=1, max_size=2, unique=True))),
        "refresh": draw(st.sampled_from([None, 1, 2, 3])),
        "levels": draw(st.sampled_from([None, 1, 2])),
        "span": draw(st.sampled_from([1, 1, 2])),
        "share": draw(st.sampled_from([None, (), ("grid",), ("cfg",), ("grid", "cfg")])),
        "proportional": draw(st.sampled_from([None, False, True])),
        "rotary": draw(st.sampled_from([None, "values", "pick", "mean", "before"])),
        "seed": draw(st.integers(0, 9)),
    }
    return name, draw(specs(MODELS[name])), options
