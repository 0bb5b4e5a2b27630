"""Intervals, the paired difference, and the verdict."""

import dataclasses

import numpy as np
import pytest

from noisy_student_jax.evaluation.statistics import (
    CALIBRATION_BINS,
    Difference,
    calibration_error,
    judge,
    lead,
    lead_of_means,
    paired_bootstrap,
    points,
    sentence,
    wilson,
)


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [
        # Newcombe (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilsons_interval_is_the_published_one(right, images, low, high):
    found = wilson(right, images, 0.95)

    assert found == pytest.approx((low, high), abs=5e-5)


def test_wilsons_interval_widens_with_confidence_and_stays_a_share():
    widths = [np.subtract(*wilson(9, 10, c)[::-1]) for c in (0.5, 0.9, 0.95, 0.999)]

    assert widths == sorted(widths)
    for right in range(11):
        low, high = wilson(right, 10, 0.999)
        assert 0 <= low <= right / 10 <= high <= 1


def bootstrap(ours, theirs, **options):
    given = {"confidence": 0.95, "samples": 2000, "seed": 0} | options
    return paired_bootstrap(np.asarray(ours, float), np.asarray(theirs, float), **given)


def test_what_is_counted_is_counted():
    found = bootstrap([1, 1, 1, 0, 0, 1], [1, 0, 0, 1, 0, 1])

    assert found.value == pytest.approx(1 / 6)
    assert found.images == 6
    assert (found.only_ours, found.only_theirs) == (2, 1)


def test_the_same_seed_gives_the_same_interval_and_another_another():
    rng = np.random.default_rng(0)
    ours, theirs = rng.random((2, 100)) < 0.7

    assert bootstrap(ours, theirs) == bootstrap(ours, theirs)
    assert bootstrap(ours, theirs) != bootstrap(ours, theirs, seed=1)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    images, trials, truth = 200, 400, 0.05
    covered = 0
    for _ in range(trials):
        # Both models share what is hard: differences are in one image of four.
        gaps = rng.choice([1, -1, 0], images, p=[0.15, 0.10, 0.75])
        found = bootstrap(gaps == 1, gaps == -1, confidence=0.9, samples=400)
        covered += found.low <= truth <= found.high

    # Three standard deviations of a share of 0.9, and a percentile's small bias.
    assert abs(covered / trials - 0.9) < 0.045 + 0.01


def test_pairing_takes_out_what_both_find_hard():
    rng = np.random.default_rng(0)
    hard = rng.random(400) < 0.5
    ours, theirs = ~hard, ~hard & (np.arange(400) > 8)

    paired, shuffled = bootstrap(ours, theirs), bootstrap(ours, rng.permutation(theirs))

    assert paired.value == pytest.approx(shuffled.value)
    assert paired.high - paired.low < 0.3 * (shuffled.high - shuffled.low)


def test_resampling_in_counts_is_resampling_images():
    rng = np.random.default_rng(0)
    ours, theirs = rng.random((2, 60)).round(1)

    found = bootstrap(ours, theirs, samples=20_000)

    drawn = rng.integers(0, 60, (20_000, 60))
    means = (ours - theirs)[drawn].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.006)
    assert found.high == pytest.approx(high, abs=0.006)
    assert found.above == pytest.approx((means > 0).mean(), abs=0.02)


def test_two_equal_models_are_level():
    found = bootstrap(np.ones(20), np.ones(20))

    assert (found.value, found.low, found.high, found.above) == (0, 0, 0, 0.5)
    assert judge(found) == "cannot tell"


def test_fractions_that_cancel_are_level_too():
    third = np.array([0.1, 0.2, 0.3])

    found = bootstrap(third + 0.3, third[::-1] + third - third[::-1] + 0.3)

    assert found.above == 0.5


def test_other_images_are_no_pairs():
    with pytest.raises(ValueError, match="not the same images"):
        bootstrap(np.ones(3), np.ones(4))


LEVEL = Difference(
    value=0.0, low=-0.1, high=0.1, above=0.5, images=480, only_ours=4, only_theirs=4
)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"low": 0.001, "high": 0.2, "above": 0.99}, "better"),
        ({"low": -0.2, "high": -0.001, "above": 0.01}, "worse"),
        ({"low": 0.0, "above": 0.95}, "probably better, not surely"),
        ({"above": 0.9}, "probably better, not surely"),
        ({"high": 0.0, "above": 0.05}, "probably worse, not surely"),
        ({"above": 0.1}, "probably worse, not surely"),
        ({"above": 0.89}, "cannot tell"),
        ({"above": 0.11}, "cannot tell"),
        ({}, "cannot tell"),
    ],
)
def test_the_verdict_has_five_outcomes(changes, says):
    assert judge(dataclasses.replace(LEVEL, **changes)) == says


def test_the_sentence_is_one_a_person_can_act_on():
    difference = dataclasses.replace(
        LEVEL, value=0.021, low=-0.004, high=0.046, above=0.95
    )

    said = sentence(difference, ours=0.931, theirs=0.91, against="labels-only")

    assert said == (
        "student 93.1 %, labels-only 91.0 %, difference +2.1 [−0.4, 4.6] on 480 test"
        " images: probably better, not surely"
    )


def test_the_sentence_says_when_it_cannot_tell_or_it_is_worse():
    level = sentence(LEVEL, ours=0.9, theirs=0.9, against="teacher")
    worse = sentence(
        dataclasses.replace(LEVEL, value=-0.15, low=-0.2, high=-0.1, above=0.0),
        ours=0.75,
        theirs=0.9,
        against="teacher",
    )

    assert level.endswith(
        "difference 0.0 [−10.0, 10.0] on 480 test images: cannot tell"
    )
    assert worse == (
        "student 75.0 %, teacher 90.0 %, difference −15.0 [−20.0, −10.0] on 480 test"
        " images: worse"
    )


def test_a_difference_that_rounds_to_zero_has_no_minus():
    difference = dataclasses.replace(LEVEL, value=-0.0001, low=-0.0002, high=0.0)

    said = sentence(difference, ours=0.9, theirs=0.9, against="teacher")

    assert "difference 0.0 [0.0, 0.0]" in said


def test_calibration_weighs_bins_by_their_images():
    # Three images of confidence 0.5, one right; one of 1.0, wrong.
    confidence = np.array([0.5, 0.5, 0.5, 1.0])
    right = np.array([1.0, 0.0, 0.0, 0.0])

    expected = 0.75 * abs(1 / 3 - 0.5) + 0.25 * 1.0
    assert calibration_error(confidence, right) == pytest.approx(expected)


def test_calibration_joins_what_falls_into_one_bin():
    # Alone they would be off by 0.5 each; together they are right.
    inside = (0.5 + 0.5 / CALIBRATION_BINS) * np.ones(2)

    found = calibration_error(inside, np.array([1.0, 0.0]))

    assert found == pytest.approx(0.5 / CALIBRATION_BINS)


def test_a_lead_of_fewer_than_four_images_is_never_sure():
    for images in (1, 2, 3):
        assert not lead(np.ones(images), np.zeros(images)).is_sure
    assert lead(np.ones(4), np.zeros(4)).is_sure


def test_a_lead_is_sure_beyond_one_standard_error():
    # Nine against three: √(12 + 8) = 4.5 images; eight against four is not enough.
    ours, theirs = np.zeros(100), np.zeros(100)
    ours[:9] = theirs[9:12] = 1
    found = lead(ours, theirs)

    assert found.value == pytest.approx(0.06)
    assert found.error == pytest.approx(0.0447, abs=1e-4)
    assert found.is_sure and not found.reversed().is_sure
    assert points(found) == "+6.0 ± 4.5"
    assert points(found.reversed()) == "−6.0 ± 4.5"
    ours[8], theirs[8] = 0, 1
    assert not lead(ours, theirs).is_sure


def test_means_alone_tell_less_than_single_images():
    rng = np.random.default_rng(0)
    hard = rng.random(200) < 0.5
    ours, theirs = ~hard, ~hard & (np.arange(200) > 20)

    alone = lead_of_means(ours.mean(), theirs.mean(), 200)

    assert alone.value == pytest.approx(lead(ours * 1.0, theirs * 1.0).value)
    assert alone.error > 2 * lead(ours * 1.0, theirs * 1.0).error


@pytest.mark.parametrize(
    ("images", "behind", "fewest", "most"),
    [
        # A preferred model that is better is hardly ever left.
        (28, -0.02, 0.0, 0.03),
        (278, -0.02, 0.0, 0.04),
        # One that does harm is left, if there are some hundred images to show it.
        (278, 0.03, 0.5, 0.75),
        (278, 0.1, 0.98, 1.0),
    ],
)
def test_harm_is_seen_and_chance_is_not(images, behind, fewest, most):
    rng = np.random.default_rng(0)
    differ, trials = 0.12, 2000
    shares = [(differ + behind) / 2, (differ - behind) / 2, 1 - differ]
    gaps = rng.choice([1.0, -1.0, 0.0], (trials, images), p=shares)

    left = [lead(np.maximum(row, 0), np.maximum(-row, 0)).is_sure for row in gaps]

    assert fewest <= np.mean(left) <= most
