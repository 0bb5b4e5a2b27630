"""Heads in few directions of the features are heads of the features."""

import numpy as np
import pytest

from noisy_student_jax.features import reduction as reductions
from noisy_student_jax.features.logistic import Head
from noisy_student_jax.features.reduction import directions_for, reduction


def sample(rows, channels, *, rank=None):
    random = np.random.default_rng(0)
    rank = rank or channels
    low = random.standard_normal((rows, rank)) @ random.standard_normal(
        (rank, channels)
    )
    return low.astype(np.float32)


@pytest.mark.parametrize(("rows", "kept"), [(50, 8), (6, 8), (50, 40)])
def test_a_head_of_reduced_features_is_one_of_the_features(rows, kept):
    features = sample(rows, 40, rank=7)
    by = reduction(features, [40], kept=kept)
    random = np.random.default_rng(1)
    reduced = by(features)
    head = Head(random.standard_normal((reduced.shape[1], 3)), np.arange(3.0))

    found = by.whole(head).logits(features)

    assert found == pytest.approx(head.logits(reduced), abs=1e-4)


def test_nothing_is_lost_of_features_in_few_directions():
    features = sample(50, 40, rank=7)

    reduced = reduction(features, [40], kept=8)(features)

    scale = np.sqrt(np.square(features).mean())
    inner = features @ features.T / scale**2
    assert reduced.shape == (50, 8)
    assert reduced @ reduced.T == pytest.approx(inner, abs=1e-3)


def test_the_scale_of_one_backbone_beside_another_changes_nothing():
    features = sample(50, 40)
    factors = np.repeat(np.float32([1, 1024]), [15, 25])

    one = reduction(features, [15, 25], kept=8)(features)
    other = reduction(factors * features, [15, 25], kept=8)(factors * features)

    assert np.abs(one) == pytest.approx(np.abs(other), abs=1e-4)


def test_a_reduction_is_the_same_each_time():
    features = sample(60, 40)
    one, other = (reduction(features, [40], kept=8)(features) for _ in range(2))

    assert np.array_equal(one, other)


def test_many_labels_keep_more_directions():
    assert directions_for(100) == reductions.LEAST
    assert directions_for(40_000) == 40_000 // reductions.LABELED_PER_DIRECTION
