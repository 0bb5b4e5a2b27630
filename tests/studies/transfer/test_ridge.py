"""Ridge regression on features, beside one that solves and refits naively."""

import numpy as np
import pytest

from noisy_student_jax.studies.transfer import ridge

CLASSES = 3
WIDE, TALL = (12, 40), (60, 7)
"""Records and channels."""


def some(shape, *, seed=0):
    """Returns features that tell a little about their classes, and the classes."""
    records, channels = shape
    rng = np.random.default_rng(seed)
    labels = np.arange(records) % CLASSES
    centers = rng.normal(size=(CLASSES, channels))
    noise = rng.normal(size=shape) * rng.uniform(0.5, 3, channels)
    return (5 + centers[labels] + noise).astype(np.float32), labels


def naive(features, labels, penalty, *, mean, spread):
    """Solves the normal equations with a column of ones that is not penalized."""
    rows = np.column_stack([(features - mean) / spread, np.ones(len(features))])
    targets = np.where(labels[:, None] == np.arange(CLASSES), 1.0, -1.0)
    penalties = np.diag([penalty] * features.shape[1] + [0.0])
    solved = np.linalg.solve(rows.T @ rows + penalties, rows.T @ targets)
    return lambda more: (
        np.column_stack([(more - mean) / spread, np.ones(len(more))]) @ solved
    )


def standard(features):
    features = features.astype(np.float64)
    return {"mean": features.mean(0), "spread": features.std(0)}


@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_the_fit_is_that_of_the_normal_equations(shape):
    features, labels = some(shape)
    more, _ = some(shape, seed=1)
    found = ridge.fit(features, labels, classes=CLASSES)

    wanted = naive(features, labels, found.penalty, **standard(features))(more)
    np.testing.assert_allclose(more @ found.weights + found.bias, wanted, atol=1e-6)
    np.testing.assert_array_equal(found.classes(more), wanted.argmax(1))


@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_errors_of_records_left_out_are_those_of_fits_without_them(shape):
    features, labels = some(shape)
    found = ridge.fit(features, labels, classes=CLASSES)

    scale = standard(features)
    for penalty in ridge.PENALTIES:
        errors = []
        for one in range(len(labels)):
            kept = np.arange(len(labels)) != one
            fitted = naive(features[kept], labels[kept], penalty, **scale)
            target = np.where(labels[one] == np.arange(CLASSES), 1.0, -1.0)
            errors.append((fitted(features[one : one + 1])[0] - target) ** 2)
        assert found.errors[penalty] == pytest.approx(np.mean(errors), rel=1e-5)


def test_the_penalty_with_the_least_error_is_taken():
    features, labels = some(TALL)
    found = ridge.fit(features, labels, classes=CLASSES)

    assert found.errors.keys() == set(ridge.PENALTIES)
    assert found.errors[found.penalty] == min(found.errors.values())
    assert ridge.PENALTIES[0] < found.penalty < ridge.PENALTIES[-1]


def test_noise_is_penalized_more_than_what_tells_classes_apart():
    labels = np.arange(60) % CLASSES
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(60, 20))
    telling = noise.copy()
    telling[:, :CLASSES] += 20 * (labels[:, None] == np.arange(CLASSES))

    penalties = [
        ridge.fit(one, labels, classes=CLASSES).penalty for one in (noise, telling)
    ]
    assert penalties[0] > penalties[1]


def test_one_record_of_each_class_is_compared_by_the_largest_penalty():
    features, labels = some((CLASSES, 40))
    found = ridge.fit(features, labels, classes=CLASSES)

    assert found.penalty == ridge.PENALTIES[-1]
    assert not found.errors
    np.testing.assert_array_equal(found.classes(features), labels)


def test_the_unit_and_origin_of_a_channel_make_no_difference():
    features, labels = some(TALL)
    more, _ = some(TALL, seed=1)
    units = 2.0 ** np.arange(features.shape[1])

    plain = ridge.fit(features, labels, classes=CLASSES)
    other = ridge.fit(features * units - 3, labels, classes=CLASSES)
    np.testing.assert_allclose(
        (more * units - 3) @ other.weights + other.bias,
        more @ plain.weights + plain.bias,
        atol=1e-6,
    )


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_a_constant_channel_is_of_no_weight(value):
    features, labels = some(TALL)
    features[:, 2] = value

    found = ridge.fit(features, labels, classes=CLASSES)
    assert np.isfinite(found.weights).all()
    np.testing.assert_allclose(found.weights[2], 0, atol=1e-12)


def test_a_class_without_records_is_never_given():
    features, labels = some(TALL)

    found = ridge.fit(features, labels, classes=CLASSES + 1)
    assert found.weights.shape == (7, CLASSES + 1)
    assert set(found.classes(features)) == set(range(CLASSES))
