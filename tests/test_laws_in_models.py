"""Laws of sessions, whatever is combined: model, strategy, settings, roles, refresh, share, log sizes, rotary keys and seed."""

from contextlib import suppress
from dataclasses import dataclass, replace

import pytest
import torch
from drawn import model_of, often, sessions
from hypothesis import assume, given
from hypothesis import strategies as st
from tiny_families import predict
from torch import nn

from mergekit_diff import MergePlan, make, merging
from mergekit_diff.sites import find_sites
from mergekit_diff.strategies.wrapper import Wrapper

EXAMPLES = pytest.mark.parametrize("examples", [100, pytest.param(2000, marks=pytest.mark.nightly)])


def series(model, inputs):
    """Three steps of one image."""
    return [predict(model, inputs | {"timestep": inputs["timestep"] * t}) for t in (1.0, 0.7, 0.4)]


def merged(model, inputs, strategy, options):
    """Those of a session and its report; None where a combination is refused, in one line, such as a role beside ``block``."""
    try:
        with merging(model, strategy, **options) as session:
            return series(model, inputs), session.report()
    except ValueError as error:
        assert "\n" not in str(error)
        return None


def equal(some, others):
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def relative(some, others):
    """The largest distance of two outputs, as a share of the second."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(some, others, strict=True))


class Broken(Exception):
    """Raised in the middle of a call."""


def break_in(module, model, inputs):
    """Call the model, and raise when one of its modules has run."""

    def raises(*_):
        raise Broken

    hook = module.register_forward_hook(raises)
    try:
        predict(model, inputs)
    finally:
        hook.remove()


@EXAMPLES
def test_a_session_is_repeated_by_its_seed_and_restores_the_model_to_the_bit(examples, quiet, count_hooks):
    merges = []

    @given(sessions(), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    def law(case, dtype):
        (model, inputs), spec, options = of_dtype(*model_of(case[0]), dtype), *case[1:]
        base, hooks, draws = predict(model, inputs), count_hooks(model), torch.get_rng_state()
        outputs = merged(model, inputs, spec, options)
        assert torch.equal(predict(model, inputs), base) and count_hooks(model) == hooks
        assert torch.equal(torch.get_rng_state(), draws)
        assume(outputs is not None)
        assert all(each.isfinite().all() and each.dtype == base.dtype for each in outputs[0])
        assert equal(outputs[0], merged(model, inputs, spec, options)[0])
        merges.append(outputs[1].merged)

    often(law, examples)
    assert merges.count(True) > len(merges) / 2


@EXAMPLES
def test_an_exception_in_the_middle_of_a_call_restores_the_model_to_the_bit(examples, quiet, count_hooks):
    ends = []

    @given(sessions(), st.integers(0, 99))
    def law(case, place):
        (model, inputs), spec, options = model_of(case[0]), *case[1:]
        base, hooks = predict(model, inputs), count_hooks(model)
        modules = [module for site in find_sites(model) for module in site.block.modules()]
        ends.append("other")
        with suppress(ValueError, Broken), merging(model, spec, **options):
            predict(model, inputs)
            try:
                break_in(modules[place % len(modules)], model, inputs)
            except Broken:
                ends[-1] = "broken"
                raise
        assert torch.equal(predict(model, inputs), base) and count_hooks(model) == hooks

    often(law, examples)
    assert ends.count("broken") > len(ends) / 2


@EXAMPLES
def test_a_ratio_of_zero_is_the_base_to_the_bit(examples, quiet):
    @given(sessions())
    def law(case):
        (model, inputs), spec, options = model_of(case[0]), *case[1:]
        assume("ca-tome" not in str(spec))  # whose ratio is that of an image's first plan alone
        outputs = merged(model, inputs, spec | {"ratio": 0.0}, options)
        assume(outputs is not None)
        assert equal(outputs[0], series(model, inputs))

    often(law, examples)


@EXAMPLES
def test_images_of_a_batch_come_out_as_alone(examples, quiet):
    @given(sessions(), st.lists(st.integers(0, 1), min_size=2, max_size=4))
    def law(case, rows):
        (model, inputs), spec, options = of_dtype(*model_of(case[0]), torch.float64), *case[1:]
        strategy, options = make("strategy", spec), options | {"share": "grid"}
        assume(not strategy.batch_shared and "prediction" not in strategy.asks())  # the difference of two images of the batch
        together = merged(model, taken(inputs, rows), strategy, options)
        assume(together is not None)
        shares = any("batch-shared" in row["note"] for row in together[1].to_dicts())
        if not shares or len(set(rows)) == 1:
            alone = {row: merged(model, taken(inputs, [row]), strategy, options)[0] for row in set(rows)}
            for place, row in enumerate(rows):
                assert relative([output[place : place + 1] for output in together[0]], alone[row]) < 1e-6

    often(law, examples)


@EXAMPLES
def test_the_order_in_which_groups_are_counted_changes_no_output(examples, quiet):
    @given(sessions())
    def law(case):
        (model, inputs), spec, options = of_dtype(*model_of(case[0]), torch.float64), *case[1:]
        inner = make("strategy", spec)
        outputs = merged(model, inputs, inner, options)
        assume(outputs is not None)
        recounted, _ = merged(model, inputs, Recounted(inner.ratio, inner), options)
        assert relative(recounted, outputs[0]) < 1e-6

    often(law, examples)


@dataclass(frozen=True)
class Recounted(Wrapper):
    """Another strategy's partitions, with their groups counted in another order."""

    def after(self, last):
        inner = self.inner.after(last)
        return Recounted(inner.ratio, inner)

    def plan(self, x, ctx):
        plan = self.inner.plan(x, ctx)
        if not isinstance(plan, MergePlan):
            return plan
        order = torch.randperm(plan.num_groups, generator=torch.Generator().manual_seed(3))
        return replace(plan, assign=order[plan.assign], rep=plan.rep[:, order.argsort()])


def of_dtype(model, inputs, dtype):
    """The model and the arguments of its call in another precision."""

    def cast(name, value):
        return value.to(dtype) if name != "timestep" and torch.is_tensor(value) and value.is_floating_point() else value

    return nn.Module.to(model, dtype), {name: cast(name, value) for name, value in inputs.items()}


def taken(inputs, rows):
    """The arguments of a call with these of its two images."""

    def of_rows(value):
        return value[rows] if torch.is_tensor(value) and value.dim() and len(value) == 2 else value

    return {name: of_rows(value) for name, value in inputs.items()}
