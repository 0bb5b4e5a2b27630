"""Which location is to find which object."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noisy_student_jax.data.labels import IGNORE, OBJECT
from noisy_student_jax.models.fcos import locations
from noisy_student_jax.tasks.detection.assign import assign

SIDE = 128
WHERE = locations(SIDE, SIDE, (8, 16, 32))


program = jax.jit(functools.partial(assign, outputs=3))


def assigned(*rows):
    """Assigns boxes in pixels with class and kind."""
    rows = np.asarray(rows, np.float32).reshape(-1, 6)
    return program(
        jnp.asarray(WHERE),
        jnp.asarray(rows[:, :4] / SIDE),
        jnp.asarray(rows[:, 4], jnp.int32),
        jnp.asarray(rows[:, 5], jnp.int32),
    )


def by_the_rule(box):
    """Returns the locations of a box, one by one."""
    left, top, right, bottom = box
    found = []
    for x, y, stride in WHERE * SIDE:
        sides = (x - left, y - top, right - x, bottom - y)
        low, high = {8: (0, 4), 16: (2, 4), 32: (2, np.inf)}[round(stride)]
        apart = max(abs(x - (left + right) / 2), abs(y - (top + bottom) / 2))
        found.append(
            min(sides) > 0
            and apart < 1.5 * stride
            and low < max(sides) / stride <= high
        )
    return np.array(found)


@pytest.mark.parametrize("side", [11, 30, 50, 75, 101, 127])
def test_locations_near_the_center_of_a_box_of_their_level_find_it(side):
    box = (3, 1, 3 + side * 0.8, 1 + side)

    found = assigned((*box, 1, OBJECT))

    wanted = by_the_rule(box)
    assert wanted.any()
    np.testing.assert_array_equal(found.box, np.where(wanted, 0, -1))
    assert not found.ignored.any()


def test_of_two_objects_at_a_location_the_smaller_is_found():
    large, small = (0, 0, 66, 66, 0, OBJECT), (20, 20, 58, 58, 1, OBJECT)

    found = assigned(large, small).box

    by_large, by_small = (by_the_rule(box[:4]) for box in (large, small))
    assert (by_large & by_small).any() and (by_large & ~by_small).any()
    np.testing.assert_array_equal(
        found, np.where(by_small, 1, np.where(by_large, 0, -1))
    )


@pytest.mark.parametrize("box", [(41, 41, 43, 43), (8, 61, 120, 66), (60, 2, 63, 126)])
def test_a_tiny_or_thin_object_is_found_by_the_nearest_location(box):
    assert not by_the_rule(box).any()

    (found,) = np.nonzero(np.asarray(assigned((*box, 0, OBJECT)).box) == 0)

    assert len(found) == 1
    x, y, stride = WHERE[found[0]] * SIDE
    assert stride == 8
    assert abs(x - (box[0] + box[2]) / 2) <= 4
    assert abs(y - (box[1] + box[3]) / 2) <= 4


def test_an_ignored_box_is_found_by_nobody_and_hides_its_class_inside():
    box = (20, 20, 60, 60)

    found = assigned((*box, 1, IGNORE))

    assert (np.asarray(found.box) == -1).all()
    x, y = WHERE[:, 0] * SIDE, WHERE[:, 1] * SIDE
    inside = (x > 20) & (x < 60) & (y > 20) & (y < 60)
    np.testing.assert_array_equal(found.ignored[:, 1], inside)
    assert not found.ignored[:, [0, 2]].any()


def test_an_object_in_an_ignored_region_is_found_all_the_same():
    found = assigned((20, 20, 60, 60, 1, OBJECT), (0, 0, 128, 128, 1, IGNORE))

    positive = np.asarray(found.box) == 0
    assert positive.any()
    np.testing.assert_array_equal(found.ignored[:, 1], ~positive)


def test_places_without_a_box_change_nothing():
    rows = [(20, 20, 60, 60, 1, OBJECT), (70, 70, 90, 99, 2, IGNORE)]

    short, long = assigned(*rows), assigned(*rows, *[(0,) * 6] * 5)

    np.testing.assert_array_equal(short.box, long.box)
    np.testing.assert_array_equal(short.ignored, long.ignored)
    assert (np.asarray(assigned((0,) * 6).box) == -1).all()
