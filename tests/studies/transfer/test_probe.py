"""Draws of a few images of each class, and probes on them."""

import numpy as np
import pytest

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.sources import ArraySource
from noisy_student_jax.studies.transfer import probe
from noisy_student_jax.studies.transfer.target import Target

LABELS = np.array([0, 1, 2] * 8 + [0, 0])


def some_target(labels):
    images = np.zeros((len(labels), 8, 8, 3), np.uint8)
    source = ArraySource([str(n) for n in range(len(labels))], images, labels)
    return Target("made up", ("red", "green\n", "blue"), source, labels, source)


def test_a_draw_has_so_many_records_of_each_class():
    drawn = probe.draws(LABELS, 5)

    assert len(drawn) == probe.DRAWS
    for rows in drawn:
        assert len(set(rows.tolist())) == 15
        assert np.bincount(LABELS[rows]).tolist() == [5, 5, 5]


def test_draws_differ_and_are_the_same_each_time():
    drawn = probe.draws(LABELS, 5)

    assert len({tuple(rows) for rows in drawn}) == probe.DRAWS
    for rows, again in zip(drawn, probe.draws(LABELS, 5), strict=True):
        np.testing.assert_array_equal(rows, again)


def test_a_draw_of_more_records_holds_that_of_fewer():
    for few, many in zip(probe.draws(LABELS, 1), probe.draws(LABELS, 5), strict=True):
        assert set(few.tolist()) < set(many.tolist())


def test_a_probe_finds_classes_that_features_tell():
    rng = np.random.default_rng(0)
    telling = np.eye(3)[LABELS] * 10 + rng.normal(size=(len(LABELS), 3))
    features = np.concatenate([telling, rng.normal(size=(len(LABELS), 4))], axis=1)

    found = probe.probe(features, features, some_target(LABELS), LABELS, [1, 5])
    assert found.keys() == {1, 5}
    for own in found.values():
        assert own.right.shape == (probe.DRAWS, len(LABELS))
        assert len(own.penalties) == probe.DRAWS
    assert found[5].right.mean() > 0.95


def test_a_probe_finds_nothing_where_features_tell_nothing():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(2, 300, 5))
    labels, truth = rng.integers(3, size=(2, 300))

    found = probe.probe(train, test, some_target(labels), truth, [10])
    assert found[10].right.mean() == pytest.approx(1 / 3, abs=0.06)


def test_more_shots_than_a_class_has_images_are_refused():
    labels = np.array([0] * 9 + [1] * 3 + [2] * 4)

    probe.check_shots(some_target(labels), [1, 3])
    with pytest.raises(
        UserError, match=r"--shots has 4, but class 'green\\n' .* has 3"
    ):
        probe.check_shots(some_target(labels), [1, 4])
