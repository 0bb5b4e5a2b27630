"""What labels are: classes, or boxes."""

import numpy as np

from noisy_student_jax.data import labels
from noisy_student_jax.data.labels import IGNORE, OBJECT

CLASSES = np.array([2, 0, 2])
BOXES = labels.of_boxes(
    [np.array([[0, 0, 20, 10], [5, 5, 10, 10], [1, 1, 2, 2]]), np.zeros((0, 4))],
    [np.array([1, 0, 1]), np.zeros(0)],
    [np.array([OBJECT, OBJECT, IGNORE]), np.zeros(0)],
    [(40, 20), (10, 30)],
)


def test_boxes_are_padded_and_in_units_of_the_longer_side():
    assert BOXES.shape == (2, 3, 6) and BOXES.dtype == np.float32
    assert BOXES[0, 0].tolist() == [0, 0, 0.5, 0.25, 1, OBJECT]
    assert not BOXES[1].any()


def test_a_source_without_any_box_has_room_for_one():
    empty = [np.zeros((0, 4))], [np.zeros(0)], [np.zeros(0)], [(4, 4)]

    assert labels.of_boxes(*empty).shape == (1, 1, 6)


def test_objects_are_counted_and_what_is_ignored_is_not():
    assert labels.class_counts(BOXES, 3).tolist() == [[1, 1, 0], [0, 0, 0]]
    assert labels.totals(BOXES, 3).tolist() == [1, 1, 0]
    assert labels.records_with(BOXES, 3).tolist() == [1, 1, 0]
    assert labels.present(BOXES) == [(0, 1), ()]
    assert labels.most_classes(BOXES) == 2


def test_a_class_a_record_counts_once():
    assert labels.class_counts(CLASSES, 3).tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 1]]
    assert labels.totals(CLASSES, 4).tolist() == [1, 0, 2, 0]
    assert labels.records_with(CLASSES, 4).tolist() == [1, 0, 2, 0]
    assert labels.present(CLASSES) == [(2,), (0,), (2,)]
    assert labels.most_classes(CLASSES) == 3


def test_labels_are_told_in_words():
    assert labels.told(CLASSES, 1, ("a", "b", "c")) == "a"
    assert labels.told(BOXES, 0, ("a", "b")) == "1 a, 1 b"
    assert labels.told(BOXES, 1, ("a", "b")) == "no objects"
