"""Boxes of one object under two names.

Suppression is within a class, so an object whose class is in doubt has a box of each.
One location of a detector finds one object: it would learn the smaller box.
"""

import numpy as np

from noisy_student_jax.core.protocols import Arrays
from noisy_student_jax.tasks.detection.nms import THRESHOLD


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
    # Each box is compared with the one `back` places before it.
    for back in range(1, int(found["places"].max(initial=0)) + 1):
        differ = (rows[back:] == rows[:-back]) & (classes[back:] != classes[:-back])
        late = np.flatnonzero(differ) + back
        early = late - back
        one = _iou(boxes[late], boxes[early]) > THRESHOLD
        double[late[one & (sure[late] < sure[early])]] = True
        double[early[one & (sure[early] < sure[late])]] = True
    return double


def _iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the intersection over union of pairs of boxes ``[pairs, 4]``."""
    low = np.maximum(one[:, :2], other[:, :2])
    high = np.minimum(one[:, 2:], other[:, 2:])
    shared = np.maximum(high - low, 0).prod(axis=1)
    areas = [(box[:, 2:] - box[:, :2]).prod(axis=1) for box in (one, other)]
    union = sum(areas) - shared
    return np.where(shared > 0, shared / np.where(shared > 0, union, 1), 0.0)
