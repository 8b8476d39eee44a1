"""Verdicts: right where the truth is known, and never from what can't be compared."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic_run import a_row

from mergekit_diff.experiments.metrics.projection import encode, project
from mergekit_diff.experiments.metrics.sets import mmd
from mergekit_diff.experiments.results import comparison, tables
from mergekit_diff.experiments.results.answer import answer, caveats
from mergekit_diff.experiments.results.comparison import Scale
from mergekit_diff.experiments.results.quality import quality
from mergekit_diff.experiments.results.row import by_cell


def compare(rows, metric, better, **more):
    return comparison.compare(rows, Scale(metric, better, **more))


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
    (one,) = compare([*control, *cell], "m", better)
    assert one.verdict == verdict
    assert one.low < 1 < one.high and one.low > 0
    assert (one.n, one.prompts) == (40, 40)


def test_seeds_of_one_prompt_are_one_observation(draw):
    values = np.repeat(draw.normal(0.3, 1, 8), 4)  # four seeds that say the same
    control, cell = rows("c", np.zeros(32), seeds=4), rows("x", values, "c", seeds=4)
    (many,) = compare([*control, *cell], "m", "lower")
    (few,) = compare([*rows("c", np.zeros(8)), *rows("x", values[::4], "c")], "m", "lower")
    assert (many.n, many.prompts, few.n) == (32, 8, 8)
    assert (many.effect, many.low, many.high, many.p) == pytest.approx((few.effect, few.low, few.high, few.p))


def test_many_cells_need_more_evidence_than_one(draw):
    control = rows("c", np.zeros(8))
    cell = [*draw.normal(0.4, 0.3, 8)]
    alone = compare([*control, *rows("x", cell, "c")], "m", "lower")[0]
    nulls = [row for k in range(9) for row in rows(f"n{k}", draw.normal(0, 1, 8), "c")]
    among = next(one for one in compare([*control, *rows("x", cell, "c"), *nulls], "m", "lower") if one.cell == "x")
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
    (one,) = compare([*rows("c", np.zeros(6)), *cell], "m", "lower")
    assert one.verdict.startswith(comparison.NOT_COMPARABLE) and reason in one.verdict


@pytest.mark.parametrize("option", ["roles", "levels"])
def test_cells_that_merge_elsewhere_get_no_verdict_unless_that_is_what_is_asked(option):
    control = [replace(row, merging={option: 1}) for row in rows("c", np.zeros(8))]
    cell = [replace(row, merging={option: 2}) for row in rows("x", np.arange(8) + 1, "c")]
    asked = [replace(row, values={f"merging.{option}": 2}) for row in cell]
    assert compare([*control, *cell], "m", "lower")[0].verdict == f"{comparison.NOT_COMPARABLE}: {option} 2 and 1"
    assert compare([*control, *asked], "m", "lower")[0].verdict == comparison.WORSE


def test_too_few_prompts_are_said_and_have_no_interval():
    (one,) = compare([*rows("c", np.zeros(5)), *rows("x", np.arange(5) + 1, "c")], "m", "lower")
    assert one.verdict == f"{comparison.UNSURE}: too few prompts for 1 comparison"
    assert math.isnan(one.low) and math.isnan(one.high)


def test_equal_images_are_no_difference():
    (one,) = compare([*rows("c", np.ones(6)), *rows("x", np.ones(6), "c")], "m", "lower")
    assert (one.effect, one.low, one.high, one.p) == (0, 0, 0, 1)
    assert one.verdict == comparison.UNSURE


def test_only_pairs_of_the_same_prompt_and_seed_count():
    control, cell = rows("c", np.zeros(6)), rows("x", np.arange(6), "c")
    (one,) = compare([*control[:4], *cell[1:]], "m", "lower")
    assert one.n == 3 and one.effect == 2


def test_the_answer_names_every_cell_and_a_study_without_control_has_none(draw):
    data = [*rows("c", np.zeros(12)), *rows("x", draw.normal(3, 1, 12), "c"), *rows("y", np.zeros(12), "c", granted=0.9)]
    said = answer(compare(data, "m", "lower"))
    assert "worse: x" in said and "not comparable: y" in said and "12 prompts" in said
    assert answer([]) == "No control, so no verdict."


@pytest.fixture
def suffering(draw):
    """Distances of 64 prompts, of which some suffer a hundred times as much as others."""
    return draw.lognormal(-5, 1.2, 64)


def of_feature(cell, values, against=None):
    return [replace(row, metrics={"feature": row.metrics["m"], **row.metrics}) for row in rows(cell, values, against)]


def test_a_distance_is_compared_by_its_ratio(suffering):
    (one,) = compare([*of_feature("c", suffering), *of_feature("x", suffering / 2, "c")], "feature", "lower")
    assert one.by == "ratio" and one.verdict == comparison.BETTER
    assert (one.effect, one.low, one.high, one.visible) == pytest.approx((0.5, 0.5, 0.5, 1))


def test_a_change_by_a_factor_is_seen_by_ratio_where_differences_drown_it(draw, suffering):
    cell = suffering * draw.lognormal(0.1, 0.3, 64)
    data = [*of_feature("c", suffering), *of_feature("x", cell, "c")]
    (ratio,), (difference,) = compare(data, "feature", "lower"), compare(data, "m", "lower")
    assert difference.by == "difference" and difference.verdict == comparison.UNSURE
    assert ratio.verdict == comparison.WORSE and 1 < ratio.low < ratio.effect < ratio.high


def test_the_other_way_round_is_the_inverse_ratio(draw, suffering):
    cell = suffering * draw.lognormal(0.2, 0.3, 64)
    (one,) = compare([*of_feature("c", suffering), *of_feature("x", cell, "c")], "feature", "lower")
    (back,) = compare([*of_feature("c", cell), *of_feature("x", suffering, "c")], "feature", "lower")
    assert (one.effect, one.visible) == pytest.approx((1 / back.effect, back.visible))
    assert (one.low, one.high) == pytest.approx((1 / back.high, 1 / back.low), rel=0.05)
    assert (one.verdict, back.verdict) == (comparison.WORSE, comparison.BETTER)


def test_a_ratio_of_nothing_is_no_verdict(suffering):
    (one,) = compare([*of_feature("c", suffering), *of_feature("x", [0, *suffering[1:]], "c")], "feature", "lower")
    assert one.verdict.startswith(f"{comparison.NOT_COMPARABLE}: 1 of 64 prompts have no finite")


@pytest.mark.parametrize(("margin", "verdict"), [(None, comparison.UNSURE), (1.02, comparison.UNSURE), (1.2, comparison.SAME)])
def test_no_difference_needs_a_margin_that_holds_the_interval(draw, suffering, margin, verdict):
    cell = suffering * draw.lognormal(0.0, 0.2, 64)
    (one,) = compare([*of_feature("c", suffering), *of_feature("x", cell, "c")], "feature", "lower", margin=margin)
    assert 1 / 1.2 < one.low < 1 < one.high < 1.2 and one.high > 1.02
    assert one.verdict == verdict


def test_a_margin_of_a_difference_lies_on_both_sides_of_none(draw):
    cell = draw.normal(0, 0.1, 40)
    inside, outside = (compare([*rows("c", np.zeros(40)), *rows("x", cell, "c")], "m", "lower", margin=m)[0] for m in (0.1, 0.01))
    assert (inside.verdict, outside.verdict) == (comparison.SAME, comparison.UNSURE)


def repeated(cell, values, against):
    return [replace(row, role="repeat") for row in rows(cell, values, against)]


def test_a_cell_again_is_no_test_and_marks_effects_that_are_no_larger(draw):
    control, noise = rows("c", np.zeros(40)), draw.normal(0, 0.1, 40)
    small, big = rows("small", noise + 0.1, "c"), rows("big", noise + 0.5, "c")
    plain = compare([*control, *small, *big], "m", "lower")
    found = compare([*control, *repeated("again", noise + 0.3, "c"), *small, *big], "m", "lower")
    assert [one.cell for one in found] == ["small", "big", "again"]
    assert [one.p_holm for one in found[:2]] == [one.p_holm for one in plain]
    assert [one.within_repeat for one in found] == [True, False, False] and not any(one.within_repeat for one in plain)
    assert found[2].verdict == comparison.AGAIN and "again" not in answer(found)
    (said,) = caveats(found, {}, {})
    assert "small" in said and "big" not in said and f"{found[2].effect:+.4f}" in said


@pytest.mark.parametrize(("n", "least"), [(8, 2 / 2**8), (40, 2 / 10_000)])
def test_the_smallest_p_is_known_as_a_bound(draw, n, least):
    found = compare(
        [*rows("c", np.zeros(n)), *rows("x", draw.normal(9, 1, n), "c"), *rows("y", draw.normal(0, 1, n), "c")], "m", "lower"
    )
    assert [one.least for one in found] == [True, False] and found[0].p == pytest.approx(least)
    assert tables.show_p(found[0]) == f"< {2 * least:.4f}" and not tables.show_p(found[1]).startswith("<")


def test_a_second_metric_that_decides_otherwise_is_quoted(draw, suffering):
    psnr = {"c": 20.0, "x": 19.0, "y": 20.0}
    data = [
        replace(row, metrics={**row.metrics, "psnr": psnr[row.cell] + draw.normal(0, 0.1)})
        for row in (*of_feature("c", suffering), *of_feature("x", suffering / 2, "c"), *of_feature("y", suffering / 2, "c"))
    ]
    first = compare(data, "feature", "lower")
    beside = {one.cell: one for one in compare(data, "psnr", "higher")}
    (said,) = caveats(first, beside, {})
    assert said.startswith("x: PSNR says worse, -1.0") and "dB [-1.0" in said
    table = tables.verdict_table(first, beside)
    assert table[0][-2:] == ["PSNR dB: difference", "verdict by it"] and [line[-1] for line in table[1:]] == [
        "worse",
        comparison.UNSURE,
    ]


def test_what_else_differs_is_said_beside_the_verdict():
    assert caveats([], {}, {"x": ["halves: own, control: shared"], "y": []}) == [
        "x differs from its control also in: halves: own, control: shared."
    ]


def with_features(cell, vectors, against=None, role="cell"):
    return [
        a_row(cell=cell, against=against, role=role, prompt=f"p{i}", granted=0.5, features=encode(vector))
        for i, vector in enumerate(vectors)
    ]


@pytest.fixture
def real(draw):
    return project(draw.normal(1, 0.3, (100, 512)))


def test_a_set_that_moves_away_from_real_images_is_worse_and_the_pairing_sees_it(draw, real):
    images = draw.normal(1, 0.3, (40, 512))
    cell = images + 0.05 + draw.normal(0, 0.02, images.shape)
    (one,) = compare([*with_features("c", images), *with_features("x", cell, "c")], "kid", "lower", reference=real)
    direct = [mmd(torch.from_numpy(project(x)), torch.from_numpy(real)) for x in (cell, images)]
    assert one.effect == pytest.approx(direct[0] - direct[1], rel=0.02)  # rows keep half precision
    assert one.verdict == comparison.WORSE and 0 < one.low < one.effect < one.high and (one.prompts, one.n) == (40, 40)
    (back,) = compare([*with_features("c", cell), *with_features("x", images, "c")], "kid", "lower", reference=real)
    assert back.effect == -one.effect and back.verdict == comparison.BETTER


def test_sets_that_differ_by_chance_alone_have_no_verdict(draw, real):
    ps = []
    for _ in range(20):
        images = draw.normal(1, 0.3, (24, 512))
        a, b = (images + draw.normal(0, 0.1, images.shape) for _ in range(2))
        ps.append(compare([*with_features("c", a), *with_features("x", b, "c")], "kid", "lower", reference=real)[0].p)
    assert 0.2 < np.mean(ps) < 0.8 and min(ps) > 0.001


def test_a_set_without_features_or_real_images_cannot_be_compared(draw, real):
    images = draw.normal(1, 0.3, (8, 512))
    pair = [*with_features("c", images), *with_features("x", images, "c")]
    bare = [replace(row, features="") for row in pair]
    assert "no real images" in compare(pair, "kid", "lower")[0].verdict
    assert "without image features" in compare(bare, "kid", "lower", reference=real)[0].verdict


def test_quality_is_compared_with_the_base_and_the_control(draw, real):
    images = draw.normal(1, 0.3, (30, 512))
    cells = by_cell(
        [
            *with_features("base", images, role="base"),
            *with_features("c", images + 0.02, role="control"),
            *with_features("x", images + 0.05, "c"),
        ]
    )
    found = quality(cells, {"base": "base", "c": "base", "x": "base"}, Scale("kid", "lower", reference=real))
    assert [(one.cell, one.against, one.verdict) for one in found] == [
        ("c", "base", comparison.WORSE), ("x", "base", comparison.WORSE), ("x", "c", comparison.WORSE)
    ]  # fmt: skip
    assert tables.quality_title(found).startswith("Quality by KID, ")


def test_few_prompts_give_a_set_no_warning(draw, real, recwarn):
    images = draw.normal(1, 0.3, (2, 512))
    (one,) = compare([*with_features("c", images), *with_features("x", images + 0.1, "c")], "kid", "lower", reference=real)
    assert math.isfinite(one.low) and one.verdict.startswith(comparison.UNSURE) and not recwarn.list


def test_no_interval_is_a_dash(suffering):
    found = compare([*of_feature("c", suffering[:5]), *of_feature("x", suffering[:5] / 2, "c")], "feature", "lower")
    assert tables.verdict_table(found, {})[1][3] == "\N{EN DASH}"
