"""Boxes of one object: under two names, or once more beside the first."""

import numpy as np
import pytest
from tasks.detection.boxes_to_choose import predicted, random_labels, rows_of

from noisy_student_jax.data.labels import IGNORE, NONE, OBJECT
from noisy_student_jax.pseudo_labels.plan import SelectionOptions
from noisy_student_jax.tasks.detection import sidecar
from noisy_student_jax.tasks.detection.doubles import again, doubles
from noisy_student_jax.tasks.detection.selection import BoxChooser

ONE, NEAR, FAR = (0.1, 0.1, 0.5, 0.5), (0.1, 0.1, 0.5, 0.4), (0.1, 0.1, 0.5, 0.3)
THIN = (0.1, 0.1, 0.5, 0.2)


def found(*images):
    """Predictions of images, each a list of (box, class, score), the surest first."""
    given = predicted([[(of, score, 1.0) for _, of, score in own] for own in images])
    for image, own in enumerate(images):
        for place, (box, _, _) in enumerate(own):
            given["boxes"][image, place] = box
    return given


def double(*images, thresholds=(0.5, 0.5, 0.5)):
    flat = sidecar.flat(rows_of(found(*images)))
    return doubles(flat, np.array(thresholds)).tolist()


def test_a_box_is_a_double_of_a_surer_one_of_another_class_that_it_overlaps_with():
    assert double([(ONE, 0, 0.9), (NEAR, 1, 0.8)]) == [False, True]
    assert double([(ONE, 0, 0.9), (FAR, 1, 0.8)]) == [False, False]
    assert double([(ONE, 0, 0.9), (ONE, 0, 0.8)]) == [False, False]
    assert double([(ONE, 0, 0.9)], [(ONE, 1, 0.8)]) == [False, False]
    assert double([(ONE, 0, 0.9), (FAR, 0, 0.85), (NEAR, 1, 0.8)])[2]
    assert double([(ONE, 0, 0.9), (ONE, 1, 0.9)]) == [False, False]
    assert double([], []) == []


def test_a_class_of_low_scores_is_not_the_double_of_another_throughout():
    boxes = [(ONE, 0, 0.8), (NEAR, 1, 0.7)]
    assert double(boxes, thresholds=(0.6, 0.5)) == [True, False]
    assert double(boxes, thresholds=(0.5, 0.6)) == [False, True]


def test_doubles_are_those_of_all_pairs_one_by_one():
    labels = random_labels(60, 3, most=9)
    boxes = labels[..., :4] * [0.3, 0.3, 1, 1]  # of which many overlap
    images = [
        [(boxes[n, k], int(labels[n, k, 4]), 0.9 - k / 20) for k in range(9)]
        for n in range(len(labels))
    ]
    expected = []
    for own in images:
        for k, (box, of, _) in enumerate(own):
            surer = [one for one, other, _ in own[:k] if other != of]
            expected.append(any(overlap(box, one) > 0.6 for one in surer))
    assert 20 < sum(expected) < len(expected) - 20
    assert double(*images) == expected


def further(*images, objects):
    flat = sidecar.flat(rows_of(found(*images)))
    return again(flat, np.array(objects, bool)).tolist()


def test_a_further_box_of_an_object_is_one_of_its_class_that_it_overlaps_with():
    pair = [(ONE, 0, 0.9), (FAR, 0, 0.3)]
    assert further(pair, objects=[1, 0]) == [False, True]
    assert further(pair, objects=[1, 1]) == [False, False]
    assert further(pair, objects=[0, 0]) == [False, False]
    assert further([(ONE, 0, 0.9), (FAR, 1, 0.3)], objects=[1, 0]) == [False, False]
    assert further([(ONE, 0, 0.9), (THIN, 0, 0.3)], objects=[1, 0]) == [False, False]
    assert further([(ONE, 0, 0.9)], [(ONE, 0, 0.3)], objects=[1, 0]) == [False, False]


def test_what_is_around_an_object_is_background_and_not_ignored():
    """Otherwise a student is never taught that a worse box of it is none."""
    image = [(ONE, 0, 0.9), (FAR, 0, 0.3), (THIN, 0, 0.2)]
    labels = random_labels(4, 1, most=1)
    rows = rows_of(found(image))
    options = SelectionOptions(method="all", min_score=0.5)
    chosen = BoxChooser(lambda: iter([rows]), labels, options, classes=["a"])
    kinds = chosen.kinds(sidecar.flat(rows))
    assert kinds.tolist() == [OBJECT, NONE, IGNORE]


def overlap(one, other):
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = np.prod(np.maximum(high - low, 0))
    union = np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - shared
    return shared / union if union else 0


def test_a_double_is_ignored_and_takes_no_place_in_the_labeled_rate():
    surest = [(ONE, 0, 0.8), (NEAR, 1, 0.7)]
    given = found(surest, surest, [(ONE, 1, 0.6)], [(ONE, 1, 0.5)])
    labels = np.zeros((4, 1, 6), np.float32)
    labels[:, 0] = (0, 0, 1, 1, 0, 1)
    labels[:3, 0, 4] = 1
    rows = rows_of(given)
    options = SelectionOptions(method="all", min_score=0.0)

    chooser = BoxChooser(lambda: iter([rows]), labels, options, classes=("a", "b"))

    # With doubles, class 0 (one box in four images) has a threshold of 0.801, and class
    # 1 (three) one of 0.501, by which it is the surer one. It then keeps its threshold.
    kinds = chooser.targets(rows)["kinds"]
    assert kinds[:, :2].tolist() == [[2, 1], [2, 1], [1, 0], [2, 0]]
    assert chooser.thresholds.tolist() == pytest.approx([0.3, 0.501])
