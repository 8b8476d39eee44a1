"""Verdicts: right where the truth is known, and never from what can't be compared."""

import math
from dataclasses import replace

import numpy as np
import pytest
from synthetic_run import a_row

from mergekit_diff.experiments.results import comparison


def rows(cell, values, against=None, granted=0.5, seeds=1):
    return [
        a_row(cell=cell, against=against, prompt=f"p{i // seeds}", seed=i % seeds, granted=granted, metrics={"m": float(value)})
        for i, value in enumerate(values)
    ]


@pytest.fixture
def draw():
    return np.random.default_rng(0)


@pytest.mark.parametrize(("better", "verdict"), [("lower", comparison.WORSE), ("higher", comparison.BETTER)])
def test_a_clear_difference_is_found_with_its_sign(draw, better, verdict):
    base = draw.normal(0, 5, 40)
    control, cell = rows("c", base), rows("x", base + draw.normal(1, 0.5, 40), "c")
    (one,) = comparison.compare([*control, *cell], "m", better)
    assert one.verdict == verdict
    assert one.low < 1 < one.high and one.low > 0
    assert (one.n, one.prompts) == (40, 40)


def test_seeds_of_one_prompt_are_one_observation(draw):
    values = np.repeat(draw.normal(0.3, 1, 8), 4)  # four seeds that say the same
    control, cell = rows("c", np.zeros(32), seeds=4), rows("x", values, "c", seeds=4)
    (many,) = comparison.compare([*control, *cell], "m", "lower")
    (few,) = comparison.compare([*rows("c", np.zeros(8)), *rows("x", values[::4], "c")], "m", "lower")
    assert (many.n, many.prompts, few.n) == (32, 8, 8)
    assert (many.effect, many.low, many.high, many.p) == pytest.approx((few.effect, few.low, few.high, few.p))


def test_many_cells_need_more_evidence_than_one(draw):
    control = rows("c", np.zeros(8))
    cell = [*draw.normal(0.4, 0.3, 8)]
    alone = comparison.compare([*control, *rows("x", cell, "c")], "m", "lower")[0]
    nulls = [row for k in range(9) for row in rows(f"n{k}", draw.normal(0, 1, 8), "c")]
    among = next(one for one in comparison.compare([*control, *rows("x", cell, "c"), *nulls], "m", "lower") if one.cell == "x")
    assert among.p == alone.p == alone.p_holm < among.p_holm


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"granted": 0.52}, "granted ratios 0.520 and 0.500"),
        ({"values": [math.inf] * 6}, "6 of 6 prompts have no finite"),
        ({"values": [1.0]}, "1 prompts"),
    ],
)
def test_what_cannot_be_compared_gets_no_verdict(change, reason):
    cell = rows("x", change.get("values", np.arange(6)), "c", change.get("granted", 0.5))
    (one,) = comparison.compare([*rows("c", np.zeros(6)), *cell], "m", "lower")
    assert one.verdict.startswith(comparison.NOT_COMPARABLE) and reason in one.verdict


@pytest.mark.parametrize("option", ["roles", "levels"])
def test_cells_that_merge_elsewhere_get_no_verdict_unless_that_is_what_is_asked(option):
    control = [replace(row, merging={option: 1}) for row in rows("c", np.zeros(8))]
    cell = [replace(row, merging={option: 2}) for row in rows("x", np.arange(8) + 1, "c")]
    asked = [replace(row, values={f"merging.{option}": 2}) for row in cell]
    assert comparison.compare([*control, *cell], "m", "lower")[0].verdict == f"{comparison.NOT_COMPARABLE}: {option} 2 and 1"
    assert comparison.compare([*control, *asked], "m", "lower")[0].verdict == comparison.WORSE


def test_too_few_prompts_are_said_and_have_no_interval():
    (one,) = comparison.compare([*rows("c", np.zeros(5)), *rows("x", np.arange(5) + 1, "c")], "m", "lower")
    assert one.verdict == f"{comparison.UNSURE}: too few prompts for 1 comparisons"
    assert math.isnan(one.low) and math.isnan(one.high)


def test_equal_images_are_no_difference():
    (one,) = comparison.compare([*rows("c", np.ones(6)), *rows("x", np.ones(6), "c")], "m", "lower")
    assert (one.effect, one.low, one.high, one.p) == (0, 0, 0, 1)
    assert one.verdict == comparison.UNSURE


def test_only_pairs_of_the_same_prompt_and_seed_count():
    control, cell = rows("c", np.zeros(6)), rows("x", np.arange(6), "c")
    (one,) = comparison.compare([*control[:4], *cell[1:]], "m", "lower")
    assert one.n == 3 and one.effect == 2


def test_the_answer_names_every_cell_and_a_study_without_control_has_none(draw):
    data = [*rows("c", np.zeros(12)), *rows("x", draw.normal(3, 1, 12), "c"), *rows("y", np.zeros(12), "c", granted=0.9)]
    said = comparison.answer(comparison.compare(data, "m", "lower"))
    assert "worse: x" in said and "not comparable: y" in said and "12 prompts" in said
    assert comparison.answer([]) == "No control, so no verdict."


@pytest.fixture
def suffering(draw):
    """Distances of 64 prompts, of which some suffer a hundred times as much as others."""
    return draw.lognormal(-5, 1.2, 64)


def of_feature(cell, values, against=None):
    return [replace(row, metrics={"feature": row.metrics["m"], **row.metrics}) for row in rows(cell, values, against)]


def test_a_distance_is_compared_by_its_ratio(suffering):
    (one,) = comparison.compare([*of_feature("c", suffering), *of_feature("x", suffering / 2, "c")], "feature", "lower")
    assert one.by == "ratio" and one.verdict == comparison.BETTER
    assert (one.effect, one.low, one.high, one.visible) == pytest.approx((0.5, 0.5, 0.5, 1))


def test_a_change_by_a_factor_is_seen_by_ratio_where_differences_drown_it(draw, suffering):
    cell = suffering * draw.lognormal(0.1, 0.3, 64)
    data = [*of_feature("c", suffering), *of_feature("x", cell, "c")]
    (ratio,), (difference,) = comparison.compare(data, "feature", "lower"), comparison.compare(data, "m", "lower")
    assert difference.by == "difference" and difference.verdict == comparison.UNSURE
    assert ratio.verdict == comparison.WORSE and 1 < ratio.low < ratio.effect < ratio.high


def test_the_other_way_round_is_the_inverse_ratio(draw, suffering):
    cell = suffering * draw.lognormal(0.2, 0.3, 64)
    (one,) = comparison.compare([*of_feature("c", suffering), *of_feature("x", cell, "c")], "feature", "lower")
    (back,) = comparison.compare([*of_feature("c", cell), *of_feature("x", suffering, "c")], "feature", "lower")
    assert (one.effect, one.visible) == pytest.approx((1 / back.effect, back.visible))
    assert (one.low, one.high) == pytest.approx((1 / back.high, 1 / back.low), rel=0.05)
    assert (one.verdict, back.verdict) == (comparison.WORSE, comparison.BETTER)


def test_a_ratio_of_nothing_is_no_verdict(suffering):
    (one,) = comparison.compare([*of_feature("c", suffering), *of_feature("x", [0, *suffering[1:]], "c")], "feature", "lower")
    assert one.verdict.startswith(f"{comparison.NOT_COMPARABLE}: 1 of 64 prompts have no finite")
