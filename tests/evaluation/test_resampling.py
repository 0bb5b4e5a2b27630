"""Resampled metrics: those that are means over images, and those that are not."""

import math

import numpy as np
import pyarrow as pa
import pytest

from noisy_student_jax.evaluation import resampling, statistics
from noisy_student_jax.evaluation.resampling import difference, interval, lead, mean

OPTIONS = {"confidence": 0.95, "samples": 2000, "seed": 0}


def share(found, draws=None):
    """Σ right / Σ parts: no mean over images, as these have several parts or none."""
    right, parts = (np.array(one) for one in found.flatten())
    draws = np.ones((1, len(right)), int) if draws is None else draws
    with np.errstate(invalid="ignore"):
        return draws @ right / (draws @ parts)


def parts_of(right, parts):
    return pa.StructArray.from_arrays(
        [pa.array(np.asarray(right)), pa.array(np.asarray(parts))], ["right", "parts"]
    )


def some(images, quality, seed=0):
    rng = np.random.default_rng(seed)
    parts = rng.integers(0, 6, images)
    return parts_of(rng.binomial(parts, quality), parts)


def single(right):
    """Images of one part each: the share is the mean."""
    return parts_of(np.asarray(right), np.ones(len(right), int))


def test_zeros_and_ones_have_wilsons_interval():
    found = interval(pa.array([1.0] * 9 + [0.0]), mean, **OPTIONS)

    assert found == statistics.wilson(9, 10, 0.95)


def test_other_numbers_have_an_interval_of_resampled_means():
    values = np.random.default_rng(0).normal(3, 1, 400)

    low, high = interval(pa.array(values), mean, **OPTIONS)

    error = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - error, abs=0.02)
    assert high == pytest.approx(values.mean() + error, abs=0.02)


def test_differences_of_numbers_are_those_of_the_paired_bootstrap():
    ours, theirs = np.random.default_rng(0).random((2, 50)) < 0.7

    found = difference(
        *(pa.array(one * 1.0) for one in (ours, theirs)), mean, **OPTIONS
    )

    assert found == statistics.paired_bootstrap(ours * 1.0, theirs * 1.0, **OPTIONS)


def test_a_metric_that_is_a_mean_is_resampled_alike_in_both_ways():
    rng = np.random.default_rng(0)
    ours, theirs = rng.random(300) < 0.7, rng.random(300) < 0.6
    numbers = [pa.array(one * 1.0) for one in (ours, theirs)]
    others = [single(one * 1) for one in (ours, theirs)]

    closed = difference(*numbers, mean, **OPTIONS)
    found = difference(*others, share, **OPTIONS)

    assert found.value == pytest.approx(closed.value)
    assert found.low == pytest.approx(closed.low, abs=0.01)
    assert found.high == pytest.approx(closed.high, abs=0.01)
    assert found.above == pytest.approx(closed.above, abs=0.01)
    assert (found.only_ours, found.only_theirs) == (None, None)
    ahead = lead(*others, share)
    assert ahead.value == pytest.approx(found.value)
    assert ahead.error == pytest.approx(lead(*numbers, mean).error, rel=0.05)


def test_the_interval_of_a_ratio_covers_the_truth_as_often_as_it_says():
    truth, trials = 0.7, 300

    ends = [
        interval(some(80, truth, seed), share, confidence=0.9, samples=300)
        for seed in range(trials)
    ]

    covered = np.mean([low <= truth <= high for low, high in ends])
    # Three standard deviations of a share of 0.9, and a percentile's small bias.
    assert abs(covered - 0.9) < 0.052 + 0.02


def test_both_models_see_the_same_images():
    one = some(100, 0.5)

    found = difference(one, one, share, **OPTIONS)

    assert (found.value, found.low, found.high, found.above) == (0, 0, 0, 0.5)
    with pytest.raises(ValueError, match="not the same images"):
        difference(one, some(99, 0.5), share, **OPTIONS)


def test_results_do_not_depend_on_how_many_samples_are_in_memory(monkeypatch):
    one, other = some(60, 0.5), some(60, 0.6)
    whole = difference(one, other, share, **OPTIONS)

    monkeypatch.setattr(resampling, "MOST_COUNTS", 60 * 7)

    assert difference(one, other, share, **OPTIONS) == whole
    assert interval(one, share, **(OPTIONS | {"seed": 1})) != interval(
        one, share, **OPTIONS
    )


def test_few_images_are_no_lead_and_many_are():
    def ahead(images):
        return lead(single([1] * images), single([0] * images), share)

    assert [ahead(images).is_sure for images in (1, 2, 3, 4, 40)] == [0, 0, 0, 1, 1]
    numbers = pa.array([1.0] * 40), pa.array([0.0] * 40)
    assert ahead(40).error == pytest.approx(lead(*numbers, mean).error)


def test_models_that_differ_in_no_image_are_level():
    one, other = single([1, 0] * 20), pa.array([1.0, 0.0] * 20)

    assert lead(one, one, share) == lead(other, other, mean)


def test_the_error_of_a_lead_is_how_far_leads_of_equal_models_scatter():
    leads = [
        lead(some(60, 0.5, 2 * seed), some(60, 0.5, 2 * seed + 1), share)
        for seed in range(100)
    ]

    scatter = np.std([one.value for one in leads])
    # 8 images more than the 60, and what 100 trials tell of a deviation.
    expected = scatter * (1 + 8 / 60) ** 0.5
    assert np.mean([one.error for one in leads]) == pytest.approx(expected, rel=0.2)


def test_samples_without_anything_to_measure_are_left_out():
    # A third of the samples of three images has none with a part.
    rare = parts_of([1, 0, 0], [2, 0, 0])

    assert interval(rare, share, **OPTIONS) == (0.5, 0.5)


def test_without_anything_to_measure_there_is_no_number_and_no_verdict():
    empty = parts_of([0, 0], [0, 0])

    assert all(map(math.isnan, interval(empty, share, **OPTIONS)))
    found = difference(empty, empty, share, **OPTIONS)
    assert math.isnan(found.value) and found.above == 0.5
    assert not lead(empty, empty, share).is_sure
    assert statistics.judge(found) == "cannot tell"
    said = statistics.sentence(found, ours=math.nan, theirs=math.nan, against="teacher")
    assert said == (
        "no verdict: the 2 test images hold nothing by which to compare models"
    )


def test_statistics_of_images_are_found_by_their_keys():
    found = resampling.of_images("abc", some(3, 0.5), "ca")

    assert found.to_pylist() == [some(3, 0.5)[place].as_py() for place in (2, 0)]


def test_intervals_of_several_metrics_are_those_of_each():
    def several(found, draws):
        halved = share(found, draws) / 2
        return {"share": 2 * halved, "half": halved, "nothing": np.nan * halved}

    one = some(60, 0.5)

    found = resampling.intervals(one, several, **OPTIONS)

    assert found["share"] == interval(one, share, **OPTIONS)
    assert found["half"] == pytest.approx([end / 2 for end in found["share"]])
    assert all(map(math.isnan, found["nothing"]))
