"""Laws that hold whatever is combined: strategy, settings, grid, dtype and batch; and in models also role, refresh and share."""

import dataclasses
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tiny_families import FAMILIES, build, predict

from mergekit_diff import MergePlan, make, merging, names
from mergekit_diff.experiments.study.rehearsal import planning_for, toy_context
from mergekit_diff.registry import part_class
from mergekit_diff.signals import toy_signals
from mergekit_diff.sites import ROLES

EXAMPLES = pytest.mark.parametrize("examples", [100, pytest.param(2000, marks=pytest.mark.nightly)])
ROUNDING = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 1e-5, torch.float64: 1e-6}  # weights are float32
MODELS = ("sd3", "flux", "wan", "pixart")
OFFERED = {name: [role for role in ROLES if role not in FAMILIES[name].lacking] for name in MODELS}
SMALL, LARGE = 256, 4096  # tokens at most: in CI, every night


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


@st.composite
def specs(draw, axes):
    """A strategy that plans for grids of so many axes, with a ratio and perhaps a reduction; perhaps inside another."""
    name = draw(st.sampled_from(planning_for(axes)))
    cls = part_class("strategy", name)
    fields = {field.name for field in dataclasses.fields(cls)}
    spec = {"name": name}
    if "ratio" in fields and name != "sdtm":
        spec["ratio"] = draw(st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.75, 0.9]))
        spec["ratio"] = min(spec["ratio"], cls.max_ratio)
    if "reduction" in fields:
        spec["reduction"] = draw(st.sampled_from(names("reduction")))
    if "ratio" in fields and name not in ("sdtm", "dynamic-ratio") and draw(st.integers(0, 4)) == 0:
        return {"name": "dynamic-ratio", "ratio": spec.pop("ratio"), "inner": spec}
    return spec


@st.composite
def planned(draw, most, dtypes=tuple(ROUNDING)):
    """A strategy, its tokens and its context."""
    grid = draw(grids(most))
    strategy = make("strategy", draw(specs(len(grid))))
    draws = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randn(draw(st.integers(1, 4)), math.prod(grid), 8, generator=draws, dtype=torch.float64)
    x = x.to(draw(st.sampled_from(dtypes)))
    place = {"stage": draw(st.sampled_from(["down", "mid", "up"])), "depth": draw(st.integers(0, 3)), "num_sites": 4}
    ctx = toy_context(grid, strategy.defaults().roles[0], step=draw(st.integers(0, 20)), **place)
    return strategy, x, replace(ctx, signals=toy_signals(strategy, x))


def plan_of(strategy, x, ctx):
    return strategy.plan(x, replace(ctx, signals=toy_signals(strategy, x)))


@EXAMPLES
def test_a_plan_is_a_partition_whose_groups_have_their_representative(examples):
    @given(planned(SMALL if examples == 100 else LARGE))
    def law(case):
        plan = plan_of(*case)
        assume(isinstance(plan, MergePlan))
        n, m = case[1].shape[1], plan.num_groups
        assert plan.num_tokens == n and 1 <= m <= n and len(plan.assign) in (1, len(case[1]))
        assert plan.assign.min() == 0 and plan.assign.max() == m - 1
        assert torch.equal(plan.assign.gather(1, plan.rep), torch.arange(m).expand(len(plan.rep), -1))
        assert plan.sizes.sum(-1).eq(n).all() and (plan.sizes > 0).all()
        assert plan.granted == pytest.approx(1 - m / n)

    often(law, examples)


@EXAMPLES
def test_what_merges_keeps_dtype_and_constants_and_merges_to_the_same_again(examples):
    @given(planned(SMALL if examples == 100 else LARGE))
    def law(case):
        _, x, _ = case
        plan = plan_of(*case)
        assume(plan is not None)
        close = {"atol": ROUNDING[x.dtype], "rtol": ROUNDING[x.dtype]}
        merged = plan.merge(x)
        whole = plan.unmerge(merged)
        assert merged.dtype == whole.dtype == x.dtype and merged.isfinite().all()
        assert merged.shape == (len(x), plan.num_groups, 8) and whole.shape == x.shape
        flat = torch.ones_like(x)
        torch.testing.assert_close(plan.merge(flat), torch.ones_like(merged), **close)
        torch.testing.assert_close(plan.unmerge(plan.merge(flat)), flat, **close)
        if isinstance(plan, MergePlan):
            torch.testing.assert_close(plan.merge(whole), merged, **close)

    often(law, examples)


@EXAMPLES
def test_the_same_tokens_have_the_same_plan_also_alone(examples):
    @given(planned(SMALL if examples == 100 else LARGE, dtypes=(torch.float64,)))
    def law(case):
        strategy, x, ctx = case
        plan = plan_of(strategy, x, ctx)
        assume(isinstance(plan, MergePlan))
        again = plan_of(strategy, x, ctx)
        assert torch.equal(plan.assign, again.assign) and torch.equal(plan.rep, again.rep)
        if not strategy.batch_shared:
            alone = [plan_of(strategy, row[None], ctx) for row in x]
            merged = torch.cat([one.merge(row[None]) for one, row in zip(alone, x, strict=True)])
            torch.testing.assert_close(plan.merge(x), merged, atol=1e-12, rtol=1e-12)

    often(law, examples)


@st.composite
def sessions(draw):
    """The name of a model, a strategy that plans for its grid, and options."""
    name = draw(st.sampled_from(MODELS))
    spec = draw(specs(3 if name == "wan" else 2))
    options = {"roles": draw(st.sampled_from(OFFERED[name])), "refresh": draw(st.integers(1, 4))}
    options |= {"share": draw(st.sampled_from([(), ("grid",), ("cfg",)])), "seed": draw(st.integers(0, 9))}
    return name, spec, options | {"proportional": draw(st.sampled_from([None, False, True]))}


def series(model, inputs):
    """Three steps of one image."""
    return [predict(model, inputs | {"timestep": inputs["timestep"] * t}) for t in (1.0, 0.7, 0.4)]


def merged(model, inputs, spec, options):
    """Those of a session; None where what was drawn is refused, in one line, such as a signal that the model cannot give."""
    try:
        with merging(model, spec, **options):
            return series(model, inputs)
    except ValueError as error:
        assert "\n" not in str(error)
        return None


def equal(some, others):
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


@EXAMPLES
def test_a_session_is_repeated_by_its_seed_and_restores_the_model_to_the_bit(examples, quiet, count_hooks):
    @given(sessions())
    def law(case):
        (model, inputs), spec, options = build(case[0]), *case[1:]
        base, hooks = predict(model, inputs), count_hooks(model)
        found = merged(model, inputs, spec, options)
        assert torch.equal(predict(model, inputs), base) and count_hooks(model) == hooks
        assume(found is not None)
        assert all(each.isfinite().all() for each in found)
        assert equal(found, merged(model, inputs, spec, options))

    often(law, examples)


@EXAMPLES
def test_a_ratio_of_zero_is_the_base_to_the_bit(examples, quiet):
    @given(sessions())
    def law(case):
        (model, inputs), spec, options = build(case[0]), *case[1:]
        assume("ratio" in spec and "ca-tome" not in str(spec))  # whose ratio is that of an image's first plan alone
        found = merged(model, inputs, spec | {"ratio": 0.0}, options)
        assume(found is not None)
        assert equal(found, series(model, inputs))

    often(law, examples)
