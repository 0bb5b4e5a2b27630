"""Intervals over seeds and images, Holm's correction, and verdicts on claims."""

import math

import numpy as np
import pytest
from scipy import stats

from noisy_student_jax.studies import comparison
from noisy_student_jax.studies.comparison import compared, holm, says, verdict

GAPS = (0.02, 0.03, 0.01, 0.025, 0.015)


def test_without_images_it_is_students_interval():
    one = compared(GAPS, images=0.0)

    low, high = stats.t.interval(0.95, 4, np.mean(GAPS), stats.sem(GAPS))
    assert one.interval == pytest.approx((low, high))
    assert one.p == pytest.approx(stats.ttest_1samp(GAPS, 0).pvalue)


def test_test_images_that_seeds_share_widen_the_interval():
    alone, with_images = compared(GAPS, 0.0), compared(GAPS, 0.02**2)

    assert with_images.error == pytest.approx(
        math.sqrt(np.var(GAPS, ddof=1) / 5 + 0.02**2)
    )
    assert with_images.p > alone.p


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    true, covered, rounds = 0.01, 0, 2000
    for _ in range(rounds):
        # Images are common to all seeds, whose labels and noise differ.
        images = rng.normal(0, 0.01)
        gaps = true + images + rng.normal(0, 0.02, 5)
        low, high = compared(gaps.tolist(), 0.01**2).interval
        covered += low <= true <= high

    assert 0.94 < covered / rounds < 0.99


def test_holm_gives_the_adjusted_decisions():
    rng = np.random.default_rng(1)
    for _ in range(50):
        found = [compared((rng.normal(m, 1, 5)).tolist(), 0.0) for m in (0, 1, 2, 3)]
        corrected = holm(found)

        # Step by step: the k-th smallest p is compared with alpha / (m - k).
        order = np.argsort([one.p for one in found])
        rejected, going = set(), True
        for rank, number in enumerate(order):
            going = going and found[number].p <= 0.05 / (4 - rank)
            rejected |= {number} if going else set()
        for number, one in enumerate(corrected):
            low, high = one.interval
            assert (low > 0 or high < 0) == (number in rejected)


def test_one_comparison_is_not_corrected():
    (one,) = holm([compared(GAPS, 0.0)])

    assert one.level == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("gaps", "judged"),
    [
        ((0.02, 0.021, 0.019, 0.02, 0.02), comparison.HOLDS),
        ((-0.02, -0.021, -0.019, -0.02, -0.02), comparison.FAILS),
        ((0.001, -0.001, 0.0, 0.0005, 0.0), comparison.FAILS),
        ((0.05, -0.05, 0.02, -0.01, 0.0), comparison.UNKNOWN),
        ((0.02,), comparison.UNKNOWN),
    ],
)
def test_a_claim_holds_fails_or_is_not_told(gaps, judged):
    assert verdict(compared(gaps, 0.0), margin=0.005) == judged


def test_where_it_cannot_be_told_the_number_of_seeds_is():
    gaps = (0.03, -0.01, 0.02, 0.0)
    one = compared(gaps, 0.0)

    seeds = one.seeds_needed
    spread = np.std(gaps, ddof=1)
    assert one.mean > stats.t.ppf(0.975, seeds - 1) * spread / math.sqrt(seeds)
    assert one.mean <= stats.t.ppf(0.975, seeds - 2) * spread / math.sqrt(seeds - 1)
    assert says(one, margin=0.005) == f"cannot tell: it would take about {seeds} seeds"


def test_where_seeds_would_not_do_more_images_are_asked_for():
    one = compared((0.03, -0.01, 0.02, 0.0), images=0.02**2)

    assert one.seeds_needed is None
    assert "takes more test images" in says(one, margin=0.005)


def test_one_seed_tells_nothing():
    assert "one seed" in says(compared((0.5,), 0.0), margin=0.005)
