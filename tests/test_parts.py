"""Registry, ``make``, metrics and schedules, and what they say of bad input."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import pytest
import torch

from mergekit_diff import (
    LayerContext,
    MergePlan,
    MergeStrategy,
    RatioSchedule,
    Reduction,
    SimilarityMetric,
    WindowSchedule,
    make,
    names,
    register,
    strategies,
)
from mergekit_diff.sources import sources

KINDS = {
    "strategy": MergeStrategy,
    "metric": SimilarityMetric,
    "ratio": RatioSchedule,
    "window": WindowSchedule,
    "reduction": Reduction,
}
PARTS = [(kind, name) for kind in KINDS for name in names(kind)]


def refusal(call, *args, **kwargs):
    """The one line that a bad input is refused with."""
    with pytest.raises(ValueError) as raised:
        call(*args, **kwargs)
    message = str(raised.value)
    assert message and "\n" not in message
    return message


def test_registry_holds_what_the_contract_names():
    assert {"retom", "tomesd", "random-dest", "dynamic-ratio", "downsample"} <= set(names("strategy"))
    assert {"cosine", "dot", "euclidean", "fourier", "manhattan", "pearson"} <= set(names("metric"))
    assert {"constant", "linear", "cosine", "step", "by-depth"} <= set(names("ratio"))
    assert {"mean", "pick", "mlerp"} <= set(names("reduction"))
    assert {"fixed", "by-stage", "by-resolution", "by-progress", "shifted"} <= set(names("window"))
    for kind in KINDS:
        assert names(kind) == sorted(names(kind))


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_every_part_is_a_frozen_documented_value_made_from_its_name(kind, name):
    part = make(kind, name)
    assert isinstance(part, KINDS[kind]) and dataclasses.is_dataclass(part)
    assert part == make(kind, {"name": name}) and hash(part) == hash(make(kind, name))
    assert make(kind, part) is part
    assert type(part).__doc__.strip() and not type(part).__doc__.startswith(f"{type(part).__name__}(")
    field = next(iter(dataclasses.fields(part)), None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(part, field.name if field else "anything", 1)


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_every_part_is_rebuilt_from_its_settings(kind, name):
    part = make(kind, name)

    def spec(value):
        if dataclasses.is_dataclass(value):
            return {"name": value.name} | {f.name: spec(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return list(value) if isinstance(value, tuple) else value

    assert make(kind, spec(part)) == part


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_unknown_setting_is_refused_with_what_is_possible(kind, name):
    fields = [f.name for f in dataclasses.fields(make(kind, name))]
    message = refusal(make, kind, {"name": name, "nonsense": 1})
    assert "nonsense" in message and name in message
    assert all(field in message for field in fields)
    for field in fields:
        assert f"did you mean '{field}'" in refusal(make, kind, {"name": name, field + "x": 1})


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_name_is_refused_with_the_nearest(kind):
    for name in names(kind):
        message = refusal(make, kind, name + "z")
        assert f"'{name}z'" in message and f"did you mean '{name}'" in message
        assert all(other in message for other in names(kind))
    message = refusal(make, kind, "qqqqqqqq")
    assert "did you mean" not in message and all(name in message for name in names(kind))


def test_unknown_kind_is_refused_with_the_nearest():
    for call in (names, lambda kind: make(kind, "retom")):
        message = refusal(call, "strateg")
        assert "did you mean 'strategy'" in message and all(kind in message for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", [None, True, {}, {"value": 0.5}, object()], ids=lambda spec: type(spec).__name__)
def test_what_is_no_part_is_refused(kind, spec):
    message = refusal(make, kind, spec)
    assert kind in message and "got" in message and names(kind)[0] in message


def test_window_or_strategy_or_metric_is_no_fraction():
    for kind in ("window", "strategy", "metric"):
        assert "2.5" in refusal(make, kind, 2.5)


def test_numbers_and_lists_become_schedules():
    assert make("ratio", 0.3) == make("ratio", {"name": "constant", "value": 0.3})
    assert make("ratio", 0) == make("ratio", {"name": "constant", "value": 0.0})
    assert make("window", 3) == make("window", {"name": "fixed", "size": 3})
    assert make("window", [3, 5]) == make("window", (3, 5)) == make("window", {"name": "fixed", "size": [3, 5]})


def test_nested_parts_are_built_by_annotation_and_so_in_direct_construction():
    spec = {
        "name": "dynamic-ratio",
        "ratio": {"name": "step", "values": [0.5, 0.25], "at": [0.4]},
        "inner": {
            "name": "retom",
            "metric": "pearson",
            "window": {"name": "shifted", "inner": {"name": "fixed", "size": [2, 3]}},
        },
    }
    made = make("strategy", spec)
    assert made.inner.metric == make("metric", "pearson")
    assert made.inner.window.inner == make("window", [2, 3])
    assert made.ratio.values == (0.5, 0.25)
    cls = type(made)
    direct = cls(ratio=spec["ratio"], inner=type(made.inner)(metric="pearson", window=spec["inner"]["window"]))
    assert direct == made


@pytest.mark.parametrize("value", (-0.1, 1.0, 1.5, float("nan"), float("inf")))
def test_ratio_outside_its_range_is_refused(value):
    for name in names("strategy"):
        assert "[0, 1)" in refusal(make, "strategy", {"name": name, "ratio": value})
    message = refusal(make, "ratio", value)
    assert "[0, 1)" in message and str(value) in message
    for name in ("linear", "cosine", "by-depth"):
        for end in ("start", "end"):
            assert end in refusal(make, "ratio", {"name": name, end: value})
    assert "[0, 1)" in refusal(make, "ratio", {"name": "step", "values": [0.5, value]})


@pytest.mark.parametrize("value", (0, -1, [0, 4], [4, -2], [], [2.5, 2], ["4", 4]), ids=str)
def test_window_that_is_not_positive_whole_numbers_is_refused(value):
    message = refusal(make, "window", value)
    assert "at least 1" in message and "got" in message
    for name, field in (("retom", "window"), ("random-dest", "window"), ("tomesd", "stride")):
        assert "at least 1" in refusal(make, "strategy", {"name": name, field: value})
    assert "at least 1" in refusal(make, "window", {"name": "by-stage", "mid": value})


@pytest.mark.parametrize("name", ("retom", "random-dest", "tomesd"))
def test_window_of_the_wrong_number_of_axes_is_refused(name, context, tokens):
    field = "stride" if name == "tomesd" else "window"
    strategy = make("strategy", {"name": name, field: [2, 2, 2]})
    message = refusal(strategy.plan, tokens(1, 64), context((8, 8)))
    assert "3 axes" in message and "2 axes" in message and "(8, 8)" in message


@pytest.mark.parametrize(
    ("kind", "spec", "said"),
    [
        ("strategy", {"name": "retom", "alpha": 1.5}, ("alpha", "[0, 1]", "1.5")),
        ("strategy", {"name": "random-dest", "alpha": -0.5}, ("alpha", "[0, 1]", "-0.5")),
        ("strategy", {"name": "retom", "alpha": "much"}, ("alpha", "float", "much")),
        ("strategy", {"name": "retom", "alpha": True}, ("alpha", "float", "True")),
        ("strategy", {"name": "retom", "representative": "highst"}, ("did you mean 'highest'", "upper-half")),
        ("strategy", {"name": "retom", "rank": "grids"}, ("rank", "did you mean 'grid'", "window")),
        ("strategy", {"name": "random-dest", "draw": "new"}, ("draw", "'new'", "anew", "still")),
        ("strategy", {"name": "retom", "tokens": "normalised"}, ("tokens", "did you mean 'normalized'", "block")),
        ("strategy", {"name": "retom", "keep_representatives": 0}, ("keep_representatives", "at least 1", "0")),
        ("strategy", {"name": "random-dest", "representative": "random"}, ("representative", "random-dest")),
        ("strategy", {"name": "retom", "ratio": "half"}, ("ratio", "half")),
        ("strategy", {"name": "retom", "ratio": True}, ("ratio", "True")),
        ("strategy", {"name": "retom", "ratio": None}, ("ratio", "None")),
        ("strategy", {"name": "retom", "metric": "cosin"}, ("metric", "did you mean 'cosine'")),
        ("strategy", {"name": "retom", "metric": {"name": "fixed"}}, ("metric", "fixed")),
        ("strategy", {"name": "retom", "ratio": {"name": "linear", "strat": 0.1}}, ("did you mean 'start'",)),
        ("strategy", {"name": "tomesd", "randomize": 1}, ("randomize", "bool", "1")),
        ("strategy", {"name": "dynamic-ratio", "inner": "retm"}, ("did you mean 'retom'",)),
        ("strategy", {"name": "dynamic-ratio", "threshold": 2.0}, ("threshold", "[-1, 1]", "2.0")),
        ("strategy", {"name": "dynamic-ratio", "quantum": 0}, ("quantum", "at least 1", "0")),
        ("strategy", {"name": "dynamic-ratio", "quantum": 1.5}, ("quantum", "int", "1.5")),
        ("strategy", {"name": "dynamic-ratio", "quantum": True}, ("quantum", "int", "True")),
        ("ratio", {"name": "step", "values": [0.5], "at": [0.5]}, ("step", "one value more")),
        ("ratio", {"name": "step", "values": [0.1, 0.2, 0.3], "at": [0.6, 0.4]}, ("step", "rising")),
        ("ratio", {"name": "step", "values": [0.1, 0.2], "at": [1.0]}, ("step", "(0, 1)")),
        ("ratio", {"name": "step", "values": 0.5}, ("values", "tuple", "0.5")),
        ("ratio", {"name": "step", "values": ["a", 0.5]}, ("values", "a")),
        ("ratio", {"name": "step", "at": ["early"]}, ("at", "early")),
        ("window", {"name": "by-progress", "at": 1.5}, ("at", "[0, 1]", "1.5")),
        ("window", {"name": "by-resolution", "sizes": []}, ("at least 1",)),
        ("window", {"name": "by-resolution", "sizes": [4, 0]}, ("at least 1",)),
        ("window", {"name": "shifted", "by": "stpe"}, ("did you mean 'step'", "depth")),
        ("window", {"name": "fixed", "size": True}, ("size", "True")),
    ],
    ids=str,
)
def test_setting_that_is_wrong_is_refused_in_one_line(kind, spec, said):
    message = refusal(make, kind, spec)
    assert all(word in message for word in said), message


def test_sources_of_a_part_are_those_of_all_its_classes_and_parts():
    found = "".join(sources(make("strategy", {"name": "dynamic-ratio", "inner": "random-dest"})))
    for name in ("dynamic_ratio", "wrapper", "random_dest", "merging_in_windows"):
        assert Path(strategies.__path__[0], f"{name}.py").read_text() in found
    assert "class MergeStrategy" not in found and not list(sources(0.5))


def test_inner_strategy_without_a_ratio_is_refused(registry):
    @register("no-ratio")
    @dataclass(frozen=True)
    class NoRatio(MergeStrategy):
        """No ratio to set."""

        def plan(self, x, ctx):
            return None

    assert "ratio" in refusal(make, "strategy", {"name": "dynamic-ratio", "inner": "no-ratio"})


def test_one_decorated_class_is_a_whole_strategy(registry, context, tokens):
    @register("keep-first")
    @dataclass(frozen=True)
    class KeepFirst(MergeStrategy):
        """All tokens beyond the first ones join the first."""

        ratio: RatioSchedule = 0.5

        def plan(self, x, ctx):
            n = x.shape[1]
            kept = n - round(n * self.ratio(ctx))
            target = torch.arange(n)
            target[kept:] = 0
            return MergePlan.from_target(target[None], kept)

    assert "keep-first" in names("strategy")
    assert KeepFirst().ratio == make("ratio", 0.5) and make("strategy", "keep-first") == KeepFirst()
    assert make("strategy", {"name": "keep-first", "ratio": 0.25}).plan(tokens(1, 8), context((8,))).num_groups == 6
    wrapped = make("strategy", {"name": "dynamic-ratio", "ratio": 0.75, "inner": "keep-first"})
    assert wrapped.plan(tokens(1, 8), context((8,))).num_groups == 2
    assert "[0, 1)" in refusal(KeepFirst, ratio=1.0)


def test_parts_of_users_work_inside_built_in_strategies(registry, context, tokens):
    @register("random-sign")
    @dataclass(frozen=True)
    class FirstChannel(SimilarityMetric):
        """Alike in the first channel."""

        def __call__(self, a, b):
            return -(a[..., :, None, 0] - b[..., None, :, 0]).abs()

    @register("late")
    @dataclass(frozen=True)
    class Late(RatioSchedule):
        """Nothing in the first half."""

        amount: float

        def __call__(self, ctx: LayerContext) -> float:
            return self.amount if ctx.progress >= 0.5 else 0.0

    @register("row")
    @dataclass(frozen=True)
    class Row(WindowSchedule):
        """A whole row."""

        def __call__(self, ctx: LayerContext) -> tuple[int, ...]:
            return (*(1,) * (len(ctx.grid) - 1), ctx.grid[-1])

    spec = {"name": "retom", "metric": "random-sign", "ratio": {"name": "late", "amount": 0.5}, "window": "row"}
    strategy = make("strategy", spec)
    x = tokens(1, 64)
    assert strategy.plan(x, context((8, 8))).num_groups == 64
    plan = strategy.plan(x, context((8, 8), progress=0.5))
    assert plan.num_groups == 32
    assert torch.equal(plan.rep[0][plan.assign[0]] // 8, torch.arange(64) // 8)
    message = refusal(make, "ratio", "late")
    assert "late" in message and "amount" in message


@pytest.mark.parametrize("value", [True, False])
def test_true_and_false_are_no_numbers(value, registry):
    @register("with-number")
    @dataclass(frozen=True)
    class WithNumber(RatioSchedule):
        """Any whole number will do."""

        first: int = 0
        flag: bool = False

        def __call__(self, ctx: LayerContext) -> float:
            return 0.0

    assert make("ratio", {"name": "with-number", "flag": value}).flag is value
    assert f"expected first to be int, got {value}" in refusal(make, "ratio", {"name": "with-number", "first": value})


def test_fields_may_have_a_factory_or_be_optional(registry):
    @register("with-factory")
    @dataclass(frozen=True)
    class WithFactory(MergeStrategy):
        """Leaves everything alone."""

        ratio: RatioSchedule = 0.5
        window: Optional[WindowSchedule] = None  # noqa: UP045
        sizes: tuple[int, ...] = dataclasses.field(default_factory=lambda: (1, 2))

        def plan(self, x, ctx):
            return None

    assert make("strategy", "with-factory").sizes == (1, 2)
    assert make("strategy", {"name": "with-factory", "window": 4}).window == make("window", 4)


def test_a_name_is_taken_once_but_by_the_same_class_again(registry):
    def define():
        @register("mine")
        @dataclass(frozen=True)
        class Mine(SimilarityMetric):
            """Dot."""

            def __call__(self, a, b):
                return a @ b.mT

        return Mine

    define()
    again = define()
    assert type(make("metric", "mine")) is again
    with pytest.raises(ValueError, match="mine") as raised:

        @register("mine")
        @dataclass(frozen=True)
        class Other(SimilarityMetric):
            """Dot."""

            def __call__(self, a, b):
                return a @ b.mT

    assert "Mine" in str(raised.value) and "\n" not in str(raised.value)
    assert type(make("metric", "mine")) is again


def test_what_is_none_of_the_kinds_is_not_registered():
    with pytest.raises(TypeError, match="MergeStrategy, RatioSchedule, Reduction, SimilarityMetric, WindowSchedule"):
        register("thing")(dict)


def test_abstract_parts_are_not_built():
    for cls in KINDS.values():
        with pytest.raises(TypeError, match="abstract"):
            cls()


def low_frequencies(x):
    """The first 60% of the real part of the spectrum, as sums of cosines."""
    n = len(x)
    return torch.stack([sum(x[c] * math.cos(2 * math.pi * k * c / n) for c in range(n)) for k in range(int(0.6 * n))])


METRICS = {
    "cosine": lambda a, b: a @ b / (a.norm() * b.norm()),
    "dot": lambda a, b: a @ b,
    "euclidean": lambda a, b: -(a - b).square().sum().sqrt(),
    "manhattan": lambda a, b: -(a - b).abs().sum(),
    "fourier": lambda a, b: METRICS["cosine"](low_frequencies(a), low_frequencies(b)),
    "pearson": lambda a, b: torch.corrcoef(torch.stack([a, b]))[0, 1],
}


@pytest.mark.parametrize("name", METRICS)
def test_metric_is_its_formula(name, tokens):
    a, b = tokens(2, 5, dtype=torch.float64), tokens(2, 7, dtype=torch.float64, seed=1)
    found = make("metric", name)(a, b)
    expected = torch.stack(
        [torch.stack([torch.stack([METRICS[name](u, v) for v in y]) for u in x]) for x, y in zip(a, b, strict=True)]
    )
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("name", names("metric"))
def test_metric_keeps_shape_and_dtype_and_finds_a_token_most_like_itself(name, dtype, tokens):
    metric = make("metric", name)
    a, b = tokens(6, 5, dtype=dtype).view(2, 3, 5, 8), tokens(6, 7, dtype=dtype, seed=1).view(2, 3, 7, 8)
    score = metric(a, b)
    assert score.shape == (2, 3, 5, 7) and score.dtype == dtype and score.isfinite().all()
    unit = torch.nn.functional.normalize(a.double() - a.double().mean(-1, keepdim=True), dim=-1).to(dtype)
    own = metric(unit, unit)
    assert (own.diagonal(dim1=-2, dim2=-1) >= own.amax(-1) - 0.1).all()
    torch.testing.assert_close(metric(unit, unit.clone()), own, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("name", names("metric"))
def test_no_token_is_compared_where_there_is_none(name, tokens):
    none, some = tokens(2, 0), tokens(2, 5)
    assert make("metric", name)(none, some).shape == (2, 0, 5) and make("metric", name)(none, none).shape == (2, 0, 0)


@pytest.mark.parametrize("name", ("euclidean", "manhattan"))
def test_a_small_distance_of_long_tokens_is_not_lost_in_rounding(name, tokens):
    a = 100 + 0.01 * tokens(2, 9)
    exact = make("metric", name)(a.double(), a.double().clone())
    for other in (a, a.clone()):
        torch.testing.assert_close(make("metric", name)(a, other).double(), exact, atol=5e-5, rtol=1e-3)


def test_bounded_metrics_stay_in_their_range(tokens):
    a = 100 * tokens(2, 9)
    for name in ("cosine", "fourier", "pearson"):
        assert make("metric", name)(a, a).abs().max() <= 1 + 1e-5
    for name in ("euclidean", "manhattan"):
        assert make("metric", name)(a, -a).max() <= 0


RATIO_FORMULAS = {
    "constant": ({"value": 0.3}, lambda progress, depth: 0.3),
    "linear": ({"start": 0.8, "end": 0.2}, lambda progress, depth: 0.8 - 0.6 * progress),
    "cosine": ({"start": 0.8, "end": 0.2}, lambda progress, depth: 0.5 + 0.3 * math.cos(math.pi * progress)),
    "by-depth": ({"start": 0.1, "end": 0.7}, lambda progress, depth: 0.1 + 0.6 * depth / 3),
    "step": (
        {"values": [0.7, 0.4, 0.1], "at": [0.25, 0.6]},
        lambda progress, depth: 0.7 if progress < 0.25 else 0.4 if progress < 0.6 else 0.1,
    ),
}


@pytest.mark.parametrize("name", RATIO_FORMULAS)
def test_ratio_schedule_is_its_formula(name, context):
    settings, formula = RATIO_FORMULAS[name]
    schedule = make("ratio", {"name": name, **settings})
    for progress in (0.0, 0.1, 0.25, 0.5, 0.6, 0.99, 1.0):
        for depth in range(4):
            assert schedule(context((8, 8), progress=progress, depth=depth)) == pytest.approx(formula(progress, depth))


@pytest.mark.parametrize("name", names("ratio"))
def test_ratio_schedule_stays_in_its_range(name, context):
    schedule = make("ratio", name)
    for progress in (0.0, 0.3, 0.5, 1.0):
        for depth, sites in ((0, 1), (0, 4), (3, 4)):
            for grid in ((8, 8), (17,)):
                assert 0 <= schedule(context(grid, progress=progress, depth=depth, num_sites=sites)) < 1


@pytest.mark.parametrize("name", names("window"))
def test_window_schedule_has_a_side_of_at_least_one_for_every_axis(name, context):
    schedule = make("window", name)
    for grid in ((8, 8), (17,), (3, 4, 5)):
        for stage in ("down", "mid", "up", None):
            for place in (0, 1):
                ctx = context(grid, stage=stage, depth=place, step=place, level=3 * place, progress=float(place))
                size, offset = schedule(ctx), schedule.offset(ctx)
                assert len(size) == len(offset) == len(grid)
                assert all(isinstance(s, int) and s >= 1 for s in size)
                assert all(0 <= o < s for s, o in zip(size, offset, strict=True))


def test_window_schedules_follow_stage_resolution_progress_and_place(context):
    by_stage = make("window", {"name": "by-stage", "down": 2, "mid": [6, 4], "up": 3})
    assert [by_stage(context((8, 8), stage=s)) for s in ("down", "mid", "up", None)] == [(2, 2), (6, 4), (3, 3), (2, 2)]
    by_resolution = make("window", {"name": "by-resolution", "sizes": [8, 5]})
    assert [by_resolution(context((8, 8), level=level)) for level in range(3)] == [(8, 8), (5, 5), (5, 5)]
    by_progress = make("window", {"name": "by-progress", "early": 6, "late": [2, 3], "at": 0.4})
    assert [by_progress(context((8, 8), progress=p)) for p in (0.0, 0.39, 0.4, 1.0)] == [(6, 6), (6, 6), (2, 3), (2, 3)]
    for by, place in (("depth", {"depth": 3}), ("step", {"step": 1})):
        shifted = make("window", {"name": "shifted", "inner": [4, 6], "by": by})
        assert shifted(context((8, 8))) == shifted(context((8, 8), **place)) == (4, 6)
        assert shifted.offset(context((8, 8))) == (0, 0) and shifted.offset(context((8, 8), **place)) == (2, 3)


def test_shift_inside_another_schedule_is_kept(context):
    shifted = {"name": "shifted", "inner": 4}
    for window in ({"name": "by-stage", "down": shifted}, {"name": "by-progress", "early": shifted}):
        assert make("window", window).offset(context((8, 8), depth=1)) == (2, 2)
    assert make("window", {"name": "by-stage", "down": shifted}).offset(context((8, 8), depth=1, stage="mid")) == (0, 0)
