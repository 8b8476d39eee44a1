"""Verdicts: right where the truth is known, rarely wrong where there is none, and never from what can't be compared."""

import math

import numpy as np
import pytest

from mergekit_diff.experiments import statistics as st


def rows(cell, values, against=None, granted=0.5, seeds=1):
    return [
        {"cell": cell, "against": against, "prompt": f"p{i // seeds}", "seed": i % seeds, "m": float(value), "granted": granted}
        for i, value in enumerate(values)
    ]


@pytest.fixture
def draw():
    return np.random.default_rng(0)


@pytest.mark.parametrize(("better", "verdict"), [("lower", st.WORSE), ("higher", st.BETTER)])
def test_a_clear_difference_is_found_with_its_sign(draw, better, verdict):
    base = draw.normal(0, 5, 40)
    control, cell = rows("c", base), rows("x", base + draw.normal(1, 0.5, 40), "c")
    (one,) = st.compare([*control, *cell], "m", better)
    assert one.verdict == verdict
    assert one.low < 1 < one.high and one.low > 0
    assert (one.n, one.prompts) == (40, 40)


def test_no_difference_is_rarely_a_verdict_and_the_interval_covers(draw):
    wrong = covered = 0
    for _ in range(100):
        differences = draw.normal(0, 1, 16)
        wrong += st.sign_flip(differences) < 0.05
        _, low, high = st.bootstrap(differences)
        covered += low <= 0 <= high
    assert wrong <= 12
    assert covered >= 82


def test_seeds_of_one_prompt_are_one_observation(draw):
    values = np.repeat(draw.normal(0.3, 1, 8), 4)  # four seeds that say the same
    control, cell = rows("c", np.zeros(32), seeds=4), rows("x", values, "c", seeds=4)
    (many,) = st.compare([*control, *cell], "m", "lower")
    (few,) = st.compare([*rows("c", np.zeros(8)), *rows("x", values[::4], "c")], "m", "lower")
    assert (many.n, many.prompts, few.n) == (32, 8, 8)
    assert (many.difference, many.low, many.high, many.p) == pytest.approx((few.difference, few.low, few.high, few.p))


def test_holm_keeps_the_order_and_is_at_most_bonferroni():
    ps = [0.01, 0.04, 0.03, 0.5]
    assert st.holm(ps) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert st.holm([]) == []
    assert all(p <= c <= min(1, 4 * p) for p, c in zip(ps, st.holm(ps), strict=True))


def test_many_cells_need_more_evidence_than_one(draw):
    control = rows("c", np.zeros(8))
    cell = [*draw.normal(0.4, 0.3, 8)]
    alone = st.compare([*control, *rows("x", cell, "c")], "m", "lower")[0]
    nulls = [row for k in range(9) for row in rows(f"n{k}", draw.normal(0, 1, 8), "c")]
    among = next(one for one in st.compare([*control, *rows("x", cell, "c"), *nulls], "m", "lower") if one.cell == "x")
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
    (one,) = st.compare([*rows("c", np.zeros(6)), *cell], "m", "lower")
    assert one.verdict.startswith(st.NOT_COMPARABLE) and reason in one.verdict


@pytest.mark.parametrize("option", ["roles", "levels"])
def test_cells_that_merge_elsewhere_get_no_verdict_unless_that_is_what_is_asked(option):
    control = [row | {"merging": {option: 1}} for row in rows("c", np.zeros(8))]
    cell = [row | {"merging": {option: 2}} for row in rows("x", np.arange(8) + 1, "c")]
    asked = [row | {"values": {f"merging.{option}": 2}} for row in cell]
    assert st.compare([*control, *cell], "m", "lower")[0].verdict == f"{st.NOT_COMPARABLE}: {option} 2 and 1"
    assert st.compare([*control, *asked], "m", "lower")[0].verdict == st.WORSE


def test_too_few_prompts_are_said_and_have_no_interval():
    (one,) = st.compare([*rows("c", np.zeros(5)), *rows("x", np.arange(5) + 1, "c")], "m", "lower")
    assert one.verdict == f"{st.UNSURE}: too few prompts for 1 comparisons"
    assert math.isnan(one.low) and math.isnan(one.high)


def test_equal_pictures_are_no_difference():
    (one,) = st.compare([*rows("c", np.ones(6)), *rows("x", np.ones(6), "c")], "m", "lower")
    assert (one.difference, one.low, one.high, one.p) == (0, 0, 0, 1)
    assert one.verdict == st.UNSURE


def test_only_pairs_of_the_same_prompt_and_seed_count():
    control, cell = rows("c", np.zeros(6)), rows("x", np.arange(6), "c")
    (one,) = st.compare([*control[:4], *cell[1:]], "m", "lower")
    assert one.n == 3 and one.difference == 2


def test_the_answer_names_every_cell_and_a_study_without_control_has_none(draw):
    data = [*rows("c", np.zeros(12)), *rows("x", draw.normal(3, 1, 12), "c"), *rows("y", np.zeros(12), "c", granted=0.9)]
    said = st.answer(st.compare(data, "m", "lower"))
    assert "worse: x" in said and "not comparable: y" in said and "12 prompts" in said
    assert st.answer([]) == "No control, so no verdict."


def test_the_detectable_difference_is_detected_in_four_of_five_studies(draw):
    size = st.detectable(draw.normal(0, 1, 4000), 64)
    hits = sum(st.sign_flip(draw.normal(size, 1, 64)) < 0.05 for _ in range(60))
    assert 36 <= hits <= 58
