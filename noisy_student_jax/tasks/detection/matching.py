"""Matches detections with true boxes, as COCO does.

Detections are taken in order of score. Each gets the true box of its class that it
overlaps most, of those that no earlier one has got, if their intersection over union
(IoU) reaches the threshold. One without a box is no false alarm if enough of its own
area is in an ignore region of its class.

Source: ``COCOeval.evaluateImg`` of pycocotools, with ``iscrowd`` for ignore regions, to
which the tests compare. Written for all classes and many images at once: boxes of
different classes never compete.
"""

import dataclasses

import numpy as np

from noisy_student_jax.core.protocols import Arrays
from noisy_student_jax.data.labels import IGNORE, NONE, OBJECT

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""IoU from which a detection is a hit."""
FALSE_ALARM, NEITHER = -1, -2
"""Instead of the index of a true box: a detection without one; and one that does not
count, which is in an ignore region or has no score."""
MOST_OVERLAPS = 1 << 21
"""Number of pairs of detections and boxes that are in memory at once."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The hits, misses and false alarms of one image.

    Attributes:
      hits: int ``[hits, 2]``, the detection and the true box that it found.
      misses: int ``[misses]``, the true boxes that none found.
      false_alarms: int ``[false alarms]``, the detections that found nothing.
    """

    hits: np.ndarray
    misses: np.ndarray
    false_alarms: np.ndarray


def outcome(
    predictions: Arrays, labels: np.ndarray, *, threshold: float = 0.5
) -> Outcome:
    """Lists what a detector did on one image, detections in order of score.

    Args:
      predictions: ``boxes`` ``[detections, 4]``, ``scores`` and ``classes``
        ``[detections]``.
      labels: float ``[boxes, 6]``, see `matched`.
      threshold: IoU from which a detection is a hit.
    """
    batch = {name: predictions[name][None] for name in ("boxes", "scores", "classes")}
    found = matched(batch, labels[None], thresholds=np.array([threshold]))[0, :, 0]
    order = np.argsort(-predictions["scores"], kind="stable")
    hits = order[found[order] >= 0]
    objects = np.flatnonzero(labels[:, 5] == OBJECT)
    return Outcome(
        hits=np.stack([hits, found[hits]], axis=1),
        misses=objects[~np.isin(objects, found)],
        false_alarms=order[found[order] == FALSE_ALARM],
    )


def matched(
    predictions: Arrays, labels: np.ndarray, *, thresholds: np.ndarray = THRESHOLDS
) -> np.ndarray:
    """Finds the true box of each detection at each IoU threshold.

    Args:
      predictions: ``boxes`` ``[images, detections, 4]`` (left, top, right, bottom, of
        any unit), ``scores`` ``[images, detections]``, 0 for none, and ``classes``
        ``[images, detections]``.
      labels: ``[images, boxes, 6]``: left, top, right, bottom, class, and kind (0 for
        none).
      thresholds: float ``[thresholds]``.

    Returns:
      int32 ``[images, detections, thresholds]``: index of the box in `labels`,
      `FALSE_ALARM` or `NEITHER`.
    """
    images, detections = predictions["scores"].shape
    found = np.full((images, detections, len(thresholds)), NEITHER, np.int32)
    some = max(1, MOST_OVERLAPS // max(1, detections * labels.shape[1]))
    for start in range(0, images, some):
        rows = slice(start, start + some)
        boxes, scores, classes = (
            predictions[name][rows] for name in ("boxes", "scores", "classes")
        )
        order = np.argsort(-scores, axis=1, kind="stable")
        order = order[:, : (scores > 0).sum(axis=1).max(initial=0)]
        chosen = _matched(
            np.take_along_axis(boxes, order[:, :, None], axis=1).astype(np.float64),
            np.take_along_axis(classes, order, axis=1),
            labels[rows, : _used(labels[rows])],
            # A perfect match reaches a threshold of 1 in spite of rounding.
            np.minimum(thresholds, 1 - 1e-10),
        )
        scored = np.take_along_axis(scores, order, axis=1) > 0
        chosen[~scored] = NEITHER
        np.put_along_axis(found[rows], order[:, :, None], chosen, axis=1)
    return found


def _matched(
    boxes: np.ndarray, classes: np.ndarray, labels: np.ndarray, thresholds: np.ndarray
) -> np.ndarray:
    """Does `matched` for detections in order of score."""
    images, detections = classes.shape
    shared, union, own = _overlaps(boxes, labels[:, :, :4].astype(np.float64))
    same = classes[:, :, None] == labels[:, None, :, 4]
    objects, regions = (same & (labels[:, None, :, 5] == k) for k in (OBJECT, IGNORE))
    iou = np.where(objects, _ratio(shared, union), -1.0)
    inside = np.where(regions, _ratio(shared, own), -1.0).max(axis=2, initial=-1.0)
    ignored = inside[:, :, None] >= thresholds
    chosen = np.where(ignored, NEITHER, FALSE_ALARM).astype(np.int32)
    count = labels.shape[1]
    if not count:
        return chosen
    free = np.ones((images, len(thresholds), count), bool)
    for rank in range(detections):
        left = np.where(free, iou[:, rank, None, :], -1.0)
        # Of boxes that overlap alike, the last one.
        best = count - 1 - left[:, :, ::-1].argmax(axis=2)
        most = np.take_along_axis(left, best[:, :, None], axis=2)[:, :, 0]
        image, threshold = np.nonzero(most >= thresholds)
        taken = best[image, threshold]
        chosen[image, rank, threshold] = taken
        free[image, threshold, taken] = False
    return chosen


def _overlaps(
    detections: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns intersection, union, and the detections' own area of all pairs.

    Each is float64 ``[images, detections, boxes]``, or broadcasts to it.
    """
    ours, theirs = detections[:, :, None], boxes[:, None]
    low = np.maximum(ours[..., :2], theirs[..., :2])
    high = np.minimum(ours[..., 2:], theirs[..., 2:])
    shared = np.maximum(high - low, 0).prod(axis=-1)
    own, other = ((one[..., 2:] - one[..., :2]).prod(axis=-1) for one in (ours, theirs))
    return shared, own + other - shared, own


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Returns 0 where the part is empty, as the whole may be."""
    return np.where(part > 0, part / np.where(part > 0, whole, 1), 0.0)


def _used(labels: np.ndarray) -> int:
    """Returns the number of columns up to the last one that is not padding."""
    return (
        int(np.flatnonzero((labels[:, :, 5] != NONE).any(axis=0)).max(initial=-1)) + 1
    )
