"""A head is the solution of scikit-learn's problem."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.features.logistic import ABSENT, Rows, solve

CLASSES = 4


def rows(count=120, channels=30, *, seed=0, dtype=np.float64):
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    centers = random.standard_normal((CLASSES, channels))
    features = centers[labels] * 0.4 + random.standard_normal((count, channels))
    weights = random.uniform(0.2, 2.0, count)
    return Rows(features.astype(dtype), np.eye(CLASSES)[labels], weights)


@pytest.mark.parametrize("strength", [0.01, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_is_the_solution_that_scikit_learn_finds(strength, dtype):
    own = rows(dtype=dtype)
    theirs = LogisticRegression(C=strength, tol=1e-8, max_iter=10_000)
    theirs.fit(own.features, own.targets.argmax(axis=1), sample_weight=own.weights)

    found = solve(own, strength)

    expected = theirs.predict_proba(own.features)
    assert found.probabilities(own.features) == pytest.approx(expected, abs=5e-3)


def test_soft_targets_are_rows_of_each_class_with_shares_of_the_weight():
    hard = rows(40)
    soft = np.random.default_rng(1).dirichlet(np.ones(CLASSES), 40)
    spread = Rows(
        np.repeat(hard.features, CLASSES, axis=0),
        np.tile(np.eye(CLASSES), (40, 1)),
        (hard.weights[:, None] * soft).ravel(),
    )

    one = solve(Rows(hard.features, soft, hard.weights), 0.1)
    other = solve(spread, 0.1)

    assert one.kernel == pytest.approx(other.kernel, abs=1e-3)


def test_the_beginning_changes_nothing_but_the_time():
    own = rows()
    cold = solve(own, 0.1)
    warm = solve(own, 0.1, start=solve(own, 1.0))

    expected = cold.probabilities(own.features)
    assert warm.probabilities(own.features) == pytest.approx(expected, abs=2e-3)


def test_what_features_have_in_common_costs_no_iterations():
    def iterations(own):
        calls = []
        head = solve(own, 0.1, gradient=1e-3, check=lambda: calls.append(1))
        return len(calls), head.probabilities(own.features)

    plain = rows()
    moved = Rows(plain.features + 3, plain.targets, plain.weights)

    (few, expected), (many, found) = iterations(plain), iterations(moved)

    assert many <= few + 2
    assert found == pytest.approx(expected, abs=1e-3)


def test_a_class_without_examples_is_never_predicted():
    own = rows()
    without = own[np.flatnonzero(own.targets[:, 2] == 0)]

    found = solve(without, 0.1)

    assert (found.kernel[:, 2] == 0).all()
    assert found.bias[2] == ABSENT
    assert found.probabilities(own.features)[:, 2].max() < 1e-6


def test_the_same_rows_give_the_same_bits():
    own = rows(dtype=np.float32)

    assert np.array_equal(solve(own, 0.1).kernel, solve(own, 0.1).kernel)


def test_features_that_are_not_finite_are_refused():
    own = rows()
    own.features[3, 5] = np.nan

    with (
        warnings.catch_warnings(),
        pytest.raises(UserError, match=r"not solved after .* are its features finite"),
    ):
        warnings.simplefilter("ignore")
        solve(own, 0.1)


def test_a_stop_ends_it():
    calls = []

    def check():
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solve(rows(), 1.0, check=check)
    assert len(calls) == 4
