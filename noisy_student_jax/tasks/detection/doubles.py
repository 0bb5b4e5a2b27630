"""Boxes of one object: under two names, or once more beside the first.

Suppression is within a class, so an object whose class is in doubt has a box of each.
One location of a detector finds one object: it would learn the smaller box.
"""

from collections.abc import Iterator

import numpy as np

from noisy_student_jax.core.protocols import Arrays
from noisy_student_jax.tasks.detection.nms import THRESHOLD

AGAIN = 1 / 3
"""Intersection over union of an object with a worse box of it, which suppression keeps
up to its threshold; objects of one class seldom overlap as much."""


def doubles(found: Arrays, thresholds: np.ndarray) -> np.ndarray:
    """Returns which boxes a surer box of another class overlaps with.

    Scores are measured by the threshold of their class. Otherwise a class whose scores
    are higher throughout would take all objects in doubt from another.

    Args:
      found: the result of `sidecar.flat`; the boxes of an image follow each other.
      thresholds: ``[classes]``, scores that are equally sure.

    Returns:
      bool ``[boxes]``; true where their intersection over union exceeds that of
      suppression.
    """
    rows, boxes, classes = (found[name] for name in ("rows", "boxes", "classes"))
    sure = found["scores"] / thresholds[classes]
    double = np.zeros(len(rows), bool)
    for early, late in _pairs(rows, found["places"]):
        one = classes[early] != classes[late]
        early, late = early[one], late[one]
        one = _iou(boxes[late], boxes[early]) > THRESHOLD
        double[late[one & (sure[late] < sure[early])]] = True
        double[early[one & (sure[early] < sure[late])]] = True
    return double


def again(found: Arrays, objects: np.ndarray) -> np.ndarray:
    """Returns which boxes are further ones of objects of their class.

    Args:
      found: as in `doubles`.
      objects: bool ``[boxes]``, which boxes are objects.

    Returns:
      bool ``[boxes]``; true where a box is no object, and its intersection over union
      with one exceeds `AGAIN`.
    """
    rows, boxes, classes = (found[name] for name in ("rows", "boxes", "classes"))
    further = np.zeros(len(rows), bool)
    for early, late in _pairs(rows, found["places"]):
        one = (classes[early] == classes[late]) & (objects[early] != objects[late])
        early, late = early[one], late[one]
        one = _iou(boxes[late], boxes[early]) > AGAIN
        further[np.where(objects[early], late, early)[one]] = True
    return further


def _pairs(
    rows: np.ndarray, places: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields all pairs of boxes of one image, each pair in one of the steps."""
    # Each box is compared with the one `back` places before it.
    for back in range(1, int(places.max(initial=0)) + 1):
        late = np.flatnonzero(rows[back:] == rows[:-back]) + back
        yield late - back, late


def _iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the intersection over union of pairs of boxes ``[pairs, 4]``."""
    low = np.maximum(one[:, :2], other[:, :2])
    high = np.minimum(one[:, 2:], other[:, 2:])
    shared = np.maximum(high - low, 0).prod(axis=1)
    areas = [(box[:, 2:] - box[:, :2]).prod(axis=1) for box in (one, other)]
    union = sum(areas) - shared
    return np.where(shared > 0, shared / np.where(shared > 0, union, 1), 0.0)
