"""Which detection is a hit, which a false alarm, and which box is missed."""

import numpy as np
import pytest

from noisy_student_jax.data.labels import IGNORE, OBJECT
from noisy_student_jax.tasks.detection.matching import (
    FALSE_ALARM,
    NEITHER,
    matched,
    outcome,
)

BOX = (0.1, 0.1, 0.3, 0.3)
ELSEWHERE = (0.6, 0.6, 0.8, 0.8)


def labels_of(*rows):
    """Rows (box, class, kind)."""
    return np.array([[*box, label, kind] for box, label, kind in rows], np.float32)


def detections(*rows):
    """Rows (box, class, score)."""
    boxes, classes, scores = zip(*rows, strict=True)
    return {
        "boxes": np.array(boxes, np.float32),
        "classes": np.array(classes, np.int32),
        "scores": np.array(scores, np.float32),
    }


def moved(box, by):
    left, top, right, bottom = box
    return left + by, top, right + by, bottom


def at_half(found, labels):
    batch = {name: value[None] for name, value in found.items()}
    return matched(batch, labels[None])[0, :, 0].tolist()


def test_the_surest_detection_gets_the_box_and_another_is_a_false_alarm():
    found = detections((moved(BOX, 0.03), 0, 0.6), (BOX, 0, 0.5))

    assert at_half(found, labels_of((BOX, 0, OBJECT))) == [0, FALSE_ALARM]


def test_a_detection_gets_the_box_that_it_overlaps_most():
    labels = labels_of((moved(BOX, 0.05), 0, OBJECT), (BOX, 0, OBJECT))
    found = detections((BOX, 0, 0.9), (BOX, 0, 0.8))

    assert at_half(found, labels) == [1, 0]


def test_another_class_is_no_hit():
    found = detections((BOX, 1, 0.9))

    assert at_half(found, labels_of((BOX, 0, OBJECT))) == [FALSE_ALARM]


def test_hits_become_false_alarms_as_the_threshold_rises():
    # A shift by a quarter of the width: IoU is 0.75 / 1.25 = 0.6.
    found = detections((moved(BOX, 0.05), 0, 0.9))
    batch = {name: value[None] for name, value in found.items()}

    chosen = matched(batch, labels_of((BOX, 0, OBJECT))[None])[0, 0]

    assert chosen.tolist() in ([0, 0] + [-1] * 8, [0, 0, 0] + [-1] * 7)


def test_an_ignore_region_takes_any_number_of_detections_but_no_hits():
    region = (0.0, 0.0, 0.5, 0.5)
    labels = labels_of((region, 0, IGNORE), (BOX, 0, OBJECT))
    found = detections(
        (BOX, 0, 0.9),
        (BOX, 0, 0.8),
        (moved(BOX, 0.1), 0, 0.7),
        (BOX, 1, 0.6),
        (ELSEWHERE, 0, 0.5),
    )

    expected = [1, NEITHER, NEITHER, FALSE_ALARM, FALSE_ALARM]
    assert at_half(found, labels) == expected


def test_a_detection_counts_by_how_much_of_it_is_in_the_ignore_region():
    region = (0.0, 0.0, 0.5, 0.5)
    found = detections(((0.3, 0, 0.6, 0.5), 0, 0.9), ((0.3, 0, 0.8, 0.5), 0, 0.8))

    # Two thirds of the first are inside, two fifths of the second.
    assert at_half(found, labels_of((region, 0, IGNORE))) == [NEITHER, FALSE_ALARM]


def test_padding_of_labels_and_of_detections_changes_nothing():
    labels = labels_of((BOX, 0, OBJECT), (ELSEWHERE, 1, OBJECT))
    found = detections((BOX, 0, 0.9), (ELSEWHERE, 0, 0.4))
    padded = {
        name: np.concatenate([value, np.zeros((3, *value.shape[1:]), value.dtype)])
        for name, value in found.items()
    }
    more = np.concatenate([labels, np.zeros((5, 6), np.float32)])

    assert at_half(padded, more) == at_half(found, labels) + [NEITHER] * 3


def test_images_without_boxes_or_detections_are_images():
    found = detections((BOX, 0, 0.9))
    empty = {name: value[:0] for name, value in found.items()}

    assert at_half(found, np.zeros((1, 6), np.float32)) == [FALSE_ALARM]
    assert at_half(empty, labels_of((BOX, 0, OBJECT))) == []
    assert at_half(detections((BOX, 0, 0.0)), labels_of((BOX, 0, OBJECT))) == [NEITHER]


def test_boxes_without_area_are_no_hits_and_no_error():
    point = (0.2, 0.2, 0.2, 0.2)
    labels = labels_of((point, 0, OBJECT), (point, 0, IGNORE))

    assert at_half(detections((point, 0, 0.9), (BOX, 0, 0.8)), labels) == [-1, -1]


def test_many_images_are_matched_as_one_by_one(monkeypatch):
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 0.5, (40, 9, 2))
    boxes = np.concatenate([corner, corner + 0.3], axis=2)
    labels = np.zeros((40, 7, 6))
    labels[..., :4] = boxes[:, :7] + rng.normal(0, 0.02, (40, 7, 4))
    labels[..., 5] = rng.integers(0, 3, (40, 7))
    batch = {
        "boxes": boxes,
        "scores": rng.random((40, 9)),
        "classes": np.zeros((40, 9), int),
    }
    whole = matched(batch, labels)

    place = "noisy_student_jax.tasks.detection.matching.MOST_OVERLAPS"
    monkeypatch.setattr(place, 1)

    np.testing.assert_array_equal(matched(batch, labels), whole)
    assert (whole >= 0).any() and (whole == NEITHER).any() and (whole == -1).any()


def test_an_image_is_told_by_hits_misses_and_false_alarms():
    labels = labels_of(
        (BOX, 0, OBJECT),
        (ELSEWHERE, 0, OBJECT),
        ((0, 0.5, 0.5, 1), 0, IGNORE),
        (BOX, 1, OBJECT),
    )
    found = detections(
        (moved(ELSEWHERE, 0.5), 0, 0.4),
        (BOX, 1, 0.6),
        ((0.1, 0.6, 0.2, 0.7), 0, 0.5),
        (BOX, 0, 0.9),
        (BOX, 0, 0.8),
    )

    told = outcome(found, labels)

    assert told.hits.tolist() == [[3, 0], [1, 3]]
    assert told.misses.tolist() == [1]
    assert told.false_alarms.tolist() == [4, 0]


@pytest.mark.parametrize(("threshold", "hits"), [(0.5, 1), (0.7, 0)])
def test_an_outcome_is_of_a_threshold(threshold, hits):
    found = detections((moved(BOX, 0.05), 0, 0.9))

    told = outcome(found, labels_of((BOX, 0, OBJECT)), threshold=threshold)

    assert len(told.hits) == hits == 1 - len(told.misses) == 1 - len(told.false_alarms)
