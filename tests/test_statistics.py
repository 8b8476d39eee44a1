"""Intervals cover, tests are rarely wrong where there is nothing, and what is said to be detectable is detected."""

import numpy as np
import pytest

from mergekit_diff.experiments.results import inference as st


@pytest.fixture
def draw():
    return np.random.default_rng(0)


def test_no_difference_is_rarely_a_verdict_and_the_interval_covers(draw):
    wrong = covered = 0
    for _ in range(100):
        differences = draw.normal(0, 1, 16)
        wrong += st.sign_flip(differences) < 0.05
        _, low, high = st.bootstrap(differences)
        covered += low <= 0 <= high
    assert wrong <= 12
    assert covered >= 82


def test_holm_keeps_the_order_and_is_at_most_bonferroni():
    ps = [0.01, 0.04, 0.03, 0.5]
    assert st.holm(ps) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert st.holm([]) == []
    assert all(p <= c <= min(1, 4 * p) for p, c in zip(ps, st.holm(ps), strict=True))


def test_the_detectable_difference_is_detected_in_four_of_five_studies(draw):
    size = st.detectable(draw.normal(0, 1, 4000), 64)
    hits = sum(st.sign_flip(draw.normal(size, 1, 64)) < 0.05 for _ in range(60))
    assert 36 <= hits <= 58
