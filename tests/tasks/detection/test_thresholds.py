"""Thresholds by class, from scores of known distributions."""

import numpy as np
import pytest

from noisy_student_jax.tasks.detection import thresholds


def of_scores(scores, labeled, *, images=1000, labeled_images=100):
    """The threshold of one class, with some neighbors."""
    scores = np.asarray(scores, np.float32)
    counts = thresholds.histogram(np.ones(len(scores), np.int32), scores, 3)
    found = thresholds.at_labeled_rate(
        counts, images, np.array([5, labeled, 0]), labeled_images
    )
    assert found.dtype == np.float32
    assert found[0] == np.float32(0.3)  # no box of the pool
    return found[1]


@pytest.mark.parametrize("wanted", [250, 400, 600])
def test_even_scores_are_cut_at_their_quantile(wanted):
    scores = (np.arange(1000) + 0.5) / 1000
    found = of_scores(scores, wanted // 10)

    assert found == pytest.approx(1 - wanted / 1000, abs=1e-6)
    assert (scores >= found).sum() == wanted


def test_the_rate_is_never_exceeded_and_just_missed_by_a_bin():
    rng = np.random.default_rng(3)
    scores = rng.beta(2, 2, 5000).astype(np.float32)
    found = of_scores(scores, 137)

    assert (scores >= found).sum() <= 1370 < (scores >= found - 0.001).sum()


def test_a_teacher_that_finds_less_than_the_labels_has_the_lowest():
    assert of_scores(np.full(50, 0.9), 10) == np.float32(0.3)
    assert of_scores([], 10) == np.float32(0.3)


def test_a_teacher_that_finds_more_than_the_labels_has_the_highest():
    assert of_scores(np.full(5000, 0.99), 10) == np.float32(0.9)
    assert of_scores(np.ones(5000), 10) == np.float32(0.9)


def test_a_class_without_labels_has_the_highest():
    assert of_scores([0.95, 0.4], 0) == np.float32(0.9)


def test_a_score_on_an_edge_is_in_the_bin_above_it():
    edges = thresholds.EDGES[[0, 1, 290, 999, 1000]]
    counts = thresholds.histogram(np.zeros(5, np.int32), edges, 1)
    assert np.flatnonzero(counts[0]).tolist() == [0, 1, 290, 999, 1000]
    below = np.nextafter(edges[1:], np.float32(0))
    counts = thresholds.histogram(np.zeros(4, np.int32), below, 1)
    assert np.flatnonzero(counts[0]).tolist() == [0, 289, 998, 999]


def test_counts_of_parts_add_up():
    rng = np.random.default_rng(0)
    classes, scores = rng.integers(0, 3, 90), rng.random(90, dtype=np.float32)
    whole = thresholds.histogram(classes, scores, 3)
    parts = [
        thresholds.histogram(classes[some], scores[some], 3)
        for some in np.array_split(np.arange(90), 4)
    ]
    np.testing.assert_array_equal(sum(parts), whole)
    assert whole.sum() == 90
