"""Boxes move with their images: where, and what becomes of those that leave."""

import jax.numpy as jnp
import numpy as np
import pytest

from noisy_student_jax.augment.geometry import resample
from noisy_student_jax.data.labels import IGNORE, NONE, OBJECT
from noisy_student_jax.tasks.detection.moved import around, moved
from noisy_student_jax.tasks.detection.targets import targets

SIDE = 160
STAY = [[1.0, 0, 0], [0, 1, 0]]


def about_the_center(a, b, d, e):
    """The matrix of a linear map that leaves the picture's center in place."""
    linear = np.array([[a, b], [d, e]])
    return np.concatenate([linear, (0.5 - linear @ [0.5, 0.5])[:, None]], axis=1)


def turned(degrees):
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return about_the_center(cos, sin, -sin, cos)


def went(rows, matrix, **options):
    """Moves boxes (left, top, right, bottom, class, kind) of one image."""
    labels = np.array([rows], np.float32)
    one = {name: jnp.asarray(array) for name, array in targets(labels).items()}
    found = moved(one, jnp.asarray(np.array([matrix], np.float32)), **options)
    return {name: np.asarray(array)[0] for name, array in found.items()}


def ellipse(box):
    """A white ellipse that touches the box's sides, on black."""
    left, top, right, bottom = np.array(box) * SIDE
    at = np.arange(SIDE) + 0.5
    x = (at - (left + right) / 2) / ((right - left) / 2)
    y = (at - (top + bottom) / 2) / ((bottom - top) / 2)
    mask = (x[None] ** 2 + y[:, None] ** 2 <= 1).astype(np.uint8)
    return np.repeat(255 * mask[..., None], 3, axis=-1)


def pixels(matrix):
    """The coefficients of `resample` for a matrix in units of the side."""
    square = np.concatenate([matrix, [[0, 0, 1]]])
    to_units = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, SIDE]]) / SIDE
    inverse = np.linalg.inv(to_units) @ np.linalg.inv(square) @ to_units
    return tuple(jnp.float32(value) for value in inverse[:2].ravel())


MATRICES = {
    "rotated": turned(30),
    "rotated back": turned(-17),
    "sheared": about_the_center(1, 0.3, 0, 1),
    "sheared down": about_the_center(1, 0, -0.25, 1),
    "enlarged": about_the_center(1.3, 0, 0, 1.3),
    "all together": turned(20)
    @ np.vstack([about_the_center(-0.9, 0.2, 0, 0.9), [0, 0, 1]]),
}


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
@pytest.mark.parametrize(
    "box", [(0.4, 0.35, 0.6, 0.55), (0.3, 0.45, 0.7, 0.52), (0.5, 0.3, 0.6, 0.7)]
)
def test_a_box_encloses_its_warped_ellipse(matrix, box):
    white = (
        np.asarray(resample(jnp.asarray(ellipse(box)), pixels(matrix)))[..., 0] > 200
    )
    rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
    seen = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / SIDE
    found = went([(*box, 1, OBJECT)], matrix)["boxes"][0]
    np.testing.assert_allclose(found, seen, atol=2 / SIDE)


def test_a_hull_encloses_the_corners():
    box, matrix = (0.4, 0.35, 0.6, 0.5), turned(30)
    corners = np.array([[x, y, 1] for x in box[::2] for y in box[1::2]]) @ matrix.T
    wanted = np.concatenate([corners.min(0), corners.max(0)])
    found = went([(*box, 1, OBJECT)], matrix, hull=True)
    np.testing.assert_allclose(found["boxes"][0], wanted, atol=1e-6)
    smaller = went([(*box, 1, OBJECT)], matrix)["boxes"][0]
    assert (smaller[:2] > wanted[:2]).all() and (smaller[2:] < wanted[2:]).all()
    ignored = went([(*box, 1, IGNORE)], matrix)
    np.testing.assert_allclose(ignored["boxes"][0], wanted, atol=1e-6)
    assert ignored["kinds"].tolist() == [IGNORE]


EXACT = {
    "flip": ([[-1, 0, 1], [0, 1, 0]], (0.5, 0.25, 0.875, 0.5)),
    "quarter turn": ([[0, 1, 0], [-1, 0, 1]], (0.25, 0.5, 0.5, 0.875)),
    "half turn": ([[-1, 0, 1], [0, -1, 1]], (0.5, 0.5, 0.875, 0.75)),
    "shift": ([[1, 0, 0.25], [0, 1, -0.125]], (0.375, 0.125, 0.75, 0.375)),
    "zoom": ([[2, 0, 0], [0, 2, -0.25]], (0.25, 0.25, 1, 0.75)),
}


@pytest.mark.parametrize("hull", [False, True])
@pytest.mark.parametrize(("matrix", "wanted"), EXACT.values(), ids=EXACT)
def test_flips_turns_shifts_and_zooms_are_exact(matrix, wanted, hull):
    found = went([(0.125, 0.25, 0.5, 0.5, 2, OBJECT)], matrix, hull=hull)
    np.testing.assert_array_equal(found["boxes"][0], np.float32(wanted))


def test_nothing_but_boxes_changes_where_all_stays_in_the_picture():
    rows = [(0.125, 0.125, 0.25, 0.5, 2, OBJECT), (0.5, 0.5, 0.875, 1, 1, IGNORE)]
    rows += [(0, 0, 0, 0, 0, NONE)]
    before = {n: a[0] for n, a in targets(np.array([rows], np.float32)).items()}
    found = went(rows, STAY)
    assert found.keys() == before.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert found[name].dtype == array.dtype, name


@pytest.mark.parametrize(
    ("shift", "kind"),
    [(0.1, OBJECT), (0.29, OBJECT), (0.31, IGNORE), (0.39, IGNORE), (0.41, NONE)],
)
def test_an_object_that_leaves_is_clipped_then_ignored_then_gone(shift, kind):
    matrix = [[1, 0, shift], [0, 1, 0]]
    found = went([(0.6, 0.2, 1.0, 0.4, 3, OBJECT)], matrix)
    assert found["kinds"].tolist() == [kind]
    assert found["box_weights"].tolist() == [float(kind == OBJECT)]
    assert found["classes"].tolist() == [3 * (kind != NONE)]
    assert found["scores"].tolist() == [float(kind != NONE)]
    wanted = [0.6 + shift, 0.2, 1.0, 0.4] if kind != NONE else [0, 0, 0, 0]
    np.testing.assert_allclose(found["boxes"][0], wanted, atol=1e-6)


def test_a_region_to_ignore_stays_one_until_it_is_gone():
    rows = [(0.6, 0.2, 1.0, 0.4, 3, IGNORE)]
    assert went(rows, [[1, 0, 0.39], [0, 1, 0]])["kinds"].tolist() == [IGNORE]
    assert went(rows, [[1, 0, 0.41], [0, 1, 0]])["kinds"].tolist() == [NONE]


def test_padding_and_boxes_without_area_are_none_wherever_they_go():
    rows = [(0, 0, 0, 0, 0, NONE), (0.3, 0.3, 0.3, 0.5, 1, OBJECT)]
    for matrix in (STAY, turned(30), about_the_center(2, 0, 0, 2)):
        for hull in (False, True):
            found = went(rows, matrix, hull=hull)
            assert all(not array.any() for array in found.values())


def test_each_image_moves_by_its_own_matrix():
    boxes = np.tile(np.float32([0.25, 0.25, 0.5, 0.5]), (2, 3, 1))
    both = np.float32([STAY, [[-1, 0, 1], [0, 1, 0]]])
    found = np.asarray(around(jnp.asarray(boxes), jnp.asarray(both), hull=False))
    np.testing.assert_array_equal(found[0], boxes[0])
    np.testing.assert_array_equal(found[1, :, ::2], np.tile([0.5, 0.75], (3, 1)))
