"""The measures of robustness, against numbers computed by hand."""

import numpy as np
import pytest

from noisy_student_jax.robustness import metrics as measures

ALEXNET = measures.ALEXNET_ERRORS


def times_alexnet(factors):
    """Errors that are so many times AlexNet's at every severity."""
    return {c: [f * ALEXNET[c]] * 5 for c, f in zip(ALEXNET, factors, strict=True)}


def test_there_are_fifteen_corruptions_and_ten_perturbations():
    assert len(measures.CORRUPTIONS) == 15
    assert not set(measures.CORRUPTIONS) & set(measures.EXTRA_CORRUPTIONS)
    assert len(measures.PERTURBATIONS) == 10
    assert set(measures.NOISES) < set(measures.PERTURBATIONS)


def test_alexnets_errors_are_the_means_of_its_errors_by_severity():
    # Two of the fifteen, as its authors told them by severity.
    shot = (0.71224, 0.85108, 0.93574, 0.98182, 0.99146)
    brightness = (0.4514, 0.48502, 0.54048, 0.62166, 0.72440)

    assert ALEXNET["shot_noise"] == pytest.approx(np.mean(shot), abs=1e-6)
    assert ALEXNET["brightness"] == pytest.approx(np.mean(brightness), abs=1e-6)


def test_ce_is_the_sum_of_errors_over_the_sum_of_alexnets():
    # 2.0 / (5 × 0.886428) and 1.5 / (5 × 0.6065).
    errors = {"gaussian_noise": [0, 0.2, 0.4, 0.6, 0.8], "jpeg_compression": [0.3] * 5}

    found = measures.corruption_errors(errors)

    assert found["gaussian_noise"] == pytest.approx(0.4512493, abs=1e-6)
    assert found["jpeg_compression"] == pytest.approx(0.4946414, abs=1e-6)


def test_alexnets_own_mce_is_100():
    assert measures.mean_corruption_error(times_alexnet([1] * 15)) == pytest.approx(100)


def test_mce_averages_normalized_errors_and_not_raw_ones():
    # (8 × 0.5 + 7 × 1.5) / 15; the mean of the raw errors is another number.
    errors = times_alexnet([0.5] * 8 + [1.5] * 7)

    found = measures.mean_corruption_error(errors)

    assert found == pytest.approx(96.6667, abs=1e-3)
    assert abs(found - 100 * np.mean(list(errors.values()))) > 10


def test_mce_is_over_the_fifteen_and_not_over_nineteen_or_fewer():
    errors = times_alexnet([1] * 15)

    with pytest.raises(ValueError, match="too many"):
        measures.mean_corruption_error(errors | {"speckle_noise": [0.5] * 5})
    del errors["fog"]
    with pytest.raises(ValueError, match="fog"):
        measures.mean_corruption_error(errors)


def test_no_ce_from_fewer_than_five_severities():
    with pytest.raises(ValueError, match="4 severities"):
        measures.corruption_errors({"fog": [0.1] * 4})


@pytest.mark.parametrize(
    ("predictions", "sequence", "noise"),
    [
        ([1, 1, 1, 1], 0, 0),
        ([1, 2, 2, 2, 2], 1 / 4, 1),
        ([1, 2, 1, 2, 1], 1, 1 / 2),
        ([4, 4, 3], 1 / 2, 1 / 2),
    ],
)
def test_noises_are_compared_with_the_first_frame_the_others_with_the_previous(
    predictions, sequence, noise
):
    predictions = np.array(predictions)

    assert measures.flip_fraction(predictions, noise=False) == sequence
    assert measures.flip_fraction(predictions, noise=True) == noise


def test_a_clip_of_one_frame_flips_neither_way():
    with pytest.raises(ValueError, match="two frames"):
        measures.flip_fraction(np.array([1]), noise=False)


def test_mfr_is_a_mean_of_ratios():
    alexnet = dict.fromkeys(measures.PERTURBATIONS, 0.1) | {"scale": 0.4}
    # Nine ratios of 0.2 and one of 0.5.
    flips = dict.fromkeys(measures.PERTURBATIONS, 0.02) | {"scale": 0.2}

    assert measures.mean_flip_rate(flips, alexnet) == pytest.approx(23.0)
    del flips["tilt"]
    with pytest.raises(ValueError, match="flips"):
        measures.mean_flip_rate(flips, alexnet)


def test_a_class_outside_those_allowed_is_not_predicted():
    # Of all four classes the first is 3, the second 1; of 1 and 2 it is 1.
    logits = np.array([[0.0, 2, 1, 9], [0, 2, 1, 9], [5, 1, 4, 9]])
    labels, classes = np.array([1, 2, 2]), np.array([1, 2])

    top1 = measures.restricted_hits(logits, labels, classes)
    top2 = measures.restricted_hits(logits, labels, classes, k=2)

    assert top1.tolist() == [True, False, True]
    assert top2.all()
    assert not measures.restricted_hits(logits, labels, np.arange(4)).any()
    with pytest.raises(ValueError, match="none of the classes"):
        measures.restricted_hits(logits, labels, np.array([1, 3]))
