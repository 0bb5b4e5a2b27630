"""Boxes of one object under two names.

Suppression is within a class, so an object whose class is in doubt has a box of each.
One location of a detector finds one object: it would learn the smaller box.
"""

import numpy as np

from noisy_student_jax.core.protocols import Arrays
from noisy_student_jax.tasks.detection.nms import THRESHOLD


def doubles(found: Arrays) -> np.ndarray:
    """Returns which boxes a more certain box of another class overlaps with.

    Args:
      found: the result of `sidecar.flat`; the boxes of an image, the surest first.

    Returns:
      bool ``[boxes]``; true where their intersection over union exceeds that of
      suppression.
    """
    rows, boxes, classes, scores = (
        found[name] for name in ("rows", "boxes", "classes", "scores")
    )
    double = np.zeros(len(rows), bool)
    most = int(found["places"].max(initial=0))
    # Boxes of an image lie in a row: each is compared with the one `back` before it.
    for back in range(1, most + 1):
        same = (rows[back:] == rows[:-back]) & (classes[back:] != classes[:-back])
        same &= scores[back:] < scores[:-back]
        later = np.flatnonzero(same) + back
        overlap = _iou(boxes[later], boxes[later - back])
        double[later[overlap > THRESHOLD]] = True
    return double


def _iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the intersection over union of pairs of boxes ``[pairs, 4]``."""
    low = np.maximum(one[:, :2], other[:, :2])
    high = np.minimum(one[:, 2:], other[:, 2:])
    shared = np.maximum(high - low, 0).prod(axis=1)
    areas = [(box[:, 2:] - box[:, :2]).prod(axis=1) for box in (one, other)]
    union = sum(areas) - shared
    return np.where(shared > 0, shared / np.where(shared > 0, union, 1), 0.0)
