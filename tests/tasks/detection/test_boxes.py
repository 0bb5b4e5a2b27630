"""Geometry of boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noisy_student_jax.tasks.detection import boxes


def some(count, seed=0):
    corners = np.random.default_rng(seed).random((count, 2, 2), np.float32)
    low, high = corners.min(axis=1), corners.max(axis=1)
    return np.concatenate([low, high], axis=1)


def test_an_area_is_that_of_a_rectangle_and_an_inverted_box_has_none():
    given = jnp.array([[0.1, 0.2, 0.5, 0.4], [0.5, 0.2, 0.1, 0.4]])

    assert boxes.area(given) == pytest.approx([0.08, 0.0])


def test_overlaps_are_those_of_counted_cells():
    side = 40
    corners = np.random.default_rng(1).integers(0, side, (30, 2, 2))
    low, high = corners.min(axis=1), corners.max(axis=1) + 1
    cells = np.zeros((30, side, side), bool)
    for cell, (left, top), (right, bottom) in zip(cells, low, high, strict=True):
        cell[top:bottom, left:right] = True
    shared = np.einsum("nyx,myx->nm", cells * 1.0, cells * 1.0)
    union = cells.sum(axis=(1, 2))[:, None] + cells.sum(axis=(1, 2))[None] - shared
    given = jnp.asarray(np.concatenate([low, high], 1) / side, jnp.float32)

    np.testing.assert_allclose(
        boxes.iou_matrix(given, given), shared / union, atol=1e-5
    )


def test_the_generalized_overlap_falls_with_the_distance_of_disjoint_boxes():
    one = jnp.array([0.0, 0.0, 0.1, 0.1])
    others = jnp.array([[0.0, 0.0, 0.1, 0.1], [0.2, 0.0, 0.3, 0.1], [0.8, 0, 0.9, 0.1]])

    found = boxes.generalized_iou(one[None], others)

    assert found == pytest.approx([1.0, -1 / 3, -7 / 9], abs=1e-6)


@pytest.mark.parametrize("function", [boxes.iou, boxes.generalized_iou])
def test_empty_boxes_have_an_overlap_and_a_slope_that_are_numbers(function):
    empty = jnp.zeros((1, 4))

    value, slope = jax.value_and_grad(lambda one: function(one, empty).sum())(empty)

    assert value == 0
    assert np.isfinite(slope).all()


def test_a_mirrored_box_is_the_box_of_the_mirrored_image():
    given = jnp.asarray(some(20))

    twice = boxes.mirror(boxes.mirror(given))

    np.testing.assert_allclose(twice, given, atol=1e-6)
    assert boxes.mirror(jnp.array([0.1, 0.2, 0.4, 0.9])) == pytest.approx(
        [0.6, 0.2, 0.9, 0.9]
    )


def test_a_box_lies_around_its_location():
    found = boxes.around(
        jnp.array([[0.5, 0.4, 0.1]]), jnp.array([[0.1, 0.2, 0.3, 0.7]])
    )

    assert found[0] == pytest.approx([0.4, 0.2, 0.8, 1.1])
    assert boxes.clip(found)[0] == pytest.approx([0.4, 0.2, 0.8, 1.0])
