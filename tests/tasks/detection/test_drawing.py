"""Boxes are drawn where they are, in the colors of what they are."""

import numpy as np
import pytest

from noisy_student_jax.tasks.detection import drawing
from noisy_student_jax.tasks.detection.drawing import Layer
from noisy_student_jax.tasks.detection.targets import targets

NAMES = ("cell", "fée 猫")


def gray(height=60, width=100):
    return np.full((height, width, 3), 128, np.uint8)


def layer(*boxes, labeled=False, **more):
    classes = np.zeros(len(boxes), int)
    boxes = np.array(boxes, float).reshape(-1, 4)
    return Layer(boxes, classes, drawing.TRUE, labeled=labeled, **more)


def bounds(image, color):
    rows, columns = np.nonzero((image == color).all(axis=2))
    return columns.min(), rows.min(), columns.max(), rows.max()


@pytest.mark.parametrize(("side", "scale"), [(None, 1), (200, 2), (400, 4), (50, 0.5)])
def test_a_box_is_where_it_is_in_the_image_of_any_size(side, scale):
    box = (0.2, 0.1, 0.7, 0.5)  # in longer sides, which are 100 pixels

    image = drawing.drawn(gray(), [layer(box)], NAMES, side=side)

    assert image.shape == (60 * scale, 100 * scale, 3)
    expected = np.array(box) * 100 * scale
    np.testing.assert_allclose(bounds(image, drawing.TRUE), expected, atol=1)
    # The inside is left alone.
    assert (image[int(30 * scale), int(45 * scale)] == 128).all()


def test_the_image_that_is_given_is_left_alone():
    image = gray()
    drawing.drawn(image, [layer((0, 0, 1, 0.6))], NAMES)
    assert (image == 128).all()


def test_strong_boxes_have_thicker_lines():
    counts = []
    for strong in (False, True):
        one = layer((0.2, 0.1, 0.7, 0.5), strong=np.array([strong]))
        image = drawing.drawn(gray(), [one], NAMES, side=400)
        counts.append((image == drawing.TRUE).all(axis=2).sum())
    assert counts[1] > 1.7 * counts[0]


def test_names_and_scores_are_written_in_any_script():
    box = (0.2, 0.3, 0.7, 0.5)
    without = drawing.drawn(gray(), [layer(box)], NAMES, side=400)
    for label in range(2):
        one = Layer(
            np.array([box]), np.array([label]), drawing.PREDICTED, np.array([0.87])
        )
        image = drawing.drawn(gray(), [one], NAMES, side=400)
        left, top, _, _ = bounds(image, drawing.PREDICTED)
        assert top < 120 - 15 and left <= 80  # above the box
        assert (image != without).any()


def test_labels_stay_within_the_image():
    corners = [(0, 0, 0.02, 0.02), (0.98, 0.58, 1, 0.6), (0.97, 0, 1, 0.05)]
    image = drawing.drawn(gray(), [layer(*corners, labeled=True)], NAMES, side=400)
    assert image.shape == (240, 400, 3)


def test_labels_do_not_hide_each_other():
    boxes = np.array([[0.2, 0.3, 0.7, 0.5], [0.21, 0.31, 0.71, 0.51]])
    one = Layer(boxes, np.array([0, 0]), drawing.PREDICTED, np.array([0.9, 0.4]))

    image = drawing.drawn(gray(), [one], NAMES, side=400)

    color = (image == drawing.PREDICTED).all(axis=2).sum(axis=1)
    labels = np.flatnonzero(color > 30)  # rows of labels, and of horizontal lines
    assert labels.min() < 120 - 10 and labels.max() > 204 + 10


def test_boxes_without_area_beyond_the_image_or_none_at_all_are_drawn():
    strange = layer((0.5, 0.2, 0.5, 0.2), (0.9, 0.5, 1.4, 0.9), (0.3, 0.3, 0.2, 0.2))
    image = drawing.drawn(gray(), [strange, layer()], NAMES)
    assert (image == drawing.TRUE).all(axis=2).any()


def test_layers_hold_what_is_there():
    labels = np.array(
        [[0, 0, 0.5, 0.5, 1, 1], [0.1, 0.1, 0.2, 0.2, 0, 2], [0, 0, 0, 0, 0, 0]],
        np.float32,
    )
    ignored, objects = drawing.of_labels(labels)
    assert ignored.color == drawing.IGNORED and len(ignored.boxes) == 1
    assert objects.color == drawing.TRUE and objects.classes.tolist() == [1]
    predictions = {
        "boxes": np.zeros((3, 4)),
        "scores": np.array([0.9, 0.4, 0.0]),
        "classes": np.array([0, 1, 0], np.int32),
    }
    assert len(drawing.of_predictions(predictions, 0.0).boxes) == 2
    assert len(drawing.of_predictions(predictions, 0.5).boxes) == 1
    by_class = np.array([0.95, 0.3])
    assert drawing.of_predictions(predictions, by_class).classes.tolist() == [1]


def test_targets_are_drawn_on_the_inputs_of_a_model():
    labels = np.zeros((2, 3, 6), np.float32)
    labels[0, 0] = 0.25, 0.25, 0.75, 0.5, 1, 1
    labels[0, 1] = 0.1, 0.6, 0.2, 0.9, 0, 2
    images = np.full((2, 80, 80, 3), 128, np.uint8)

    seen = drawing.on_inputs(images, targets(labels), NAMES)

    assert seen.shape == images.shape and seen.dtype == np.uint8
    assert bounds(seen[0], drawing.TRUE) == pytest.approx((20, 20, 60, 40), abs=1)
    assert bounds(seen[0], drawing.IGNORED) == pytest.approx((8, 48, 16, 72), abs=1)
    assert (seen[1] == 128).all()
