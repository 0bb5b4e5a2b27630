"""Targets of boxes: of labels, and of what a teacher has found."""

import jax.numpy as jnp
import numpy as np
from tasks.detection.boxes_to_choose import random_labels, random_predictions, rows_of

from noisy_student_jax.tasks.detection import sidecar, targets


def test_labels_become_boxes_of_weight_and_score_one():
    labels = np.zeros((2, 3, 6), np.float32)
    labels[0, 0] = (0.1, 0.2, 0.3, 0.4, 2, 1)
    labels[0, 1] = (0.5, 0.2, 0.9, 0.4, 1, 2)
    found = targets.targets(labels)

    assert found["classes"].tolist() == [[2, 1, 0], [0, 0, 0]]
    assert found["kinds"].tolist() == [[1, 2, 0], [0, 0, 0]]
    assert found["scores"].tolist() == [[1, 1, 0], [0, 0, 0]]
    assert found["box_weights"].tolist() == [[1, 0, 0], [0, 0, 0]]
    np.testing.assert_array_equal(found["boxes"], labels[..., :4])


def test_true_and_pseudo_targets_have_the_same_arrays():
    true = targets.targets(random_labels(4, 3))
    stored = sidecar.stored_targets(rows_of(random_predictions(4, 3)))
    pseudo = targets.pseudo_targets({k: jnp.asarray(v) for k, v in stored.items()})

    assert true.keys() == pseudo.keys()
    for name, array in true.items():
        assert array.dtype == pseudo[name].dtype
        assert array.ndim == pseudo[name].ndim
        assert pseudo[name].shape[:2] == (4, 100)


def test_places_without_boxes_are_zero():
    labels = random_labels(9, 3, ignored=0.3)
    labels[labels[..., 5] == 0] = (9, 9, 9, 9, 9, 0)
    found = targets.targets(labels)
    for array in found.values():
        assert not array[found["kinds"] == 0].any()
