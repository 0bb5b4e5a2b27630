"""What a source's labels are: a class for each record, or its boxes.

Labels are integers ``[records]``, class indices, or boxes, float32 ``[records, N, 6]``:
left, top, right and bottom in units of the image's longer side, class, and kind. Rows
of kind `NONE` are zeros, so that all records have as many. All that splitting, copies
and counts ask of labels is answered here.
"""

from collections.abc import Sequence

import numpy as np

from noisy_student_jax.core.console import printable

NONE, OBJECT, IGNORE = 0, 1, 2
"""Kinds of a row: none; an object; a region that is neither hit nor miss, such as a
crowd."""
FIELDS = 6
_CLASS, _KIND = 4, 5


def are_boxes(labels: np.ndarray) -> bool:
    """Whether labels are boxes, rather than one class a record."""
    return labels.ndim == 3


def of_boxes(
    boxes: Sequence[np.ndarray],
    classes: Sequence[np.ndarray],
    kinds: Sequence[np.ndarray],
    sizes: Sequence[tuple[int, int] | None],
) -> np.ndarray:
    """Returns the labels of images with boxes, float32 ``[images, N, 6]``.

    Args:
      boxes: of each image, ``[boxes, 4]``: left, top, right, bottom in pixels.
      classes: of each image, ``[boxes]``.
      kinds: of each image, ``[boxes]``.
      sizes: width and height of each image; None for an image that cannot be read,
        whose boxes get no place.
    """
    most = max((len(one) for one in boxes), default=0)
    labels = np.zeros((len(boxes), max(most, 1), FIELDS), np.float32)
    for row, size in enumerate(sizes):
        count = len(boxes[row])
        if size is not None:
            labels[row, :count, :_CLASS] = boxes[row] / max(size)
        labels[row, :count, _CLASS] = classes[row]
        labels[row, :count, _KIND] = kinds[row]
    return labels


def class_counts(labels: np.ndarray, classes: int) -> np.ndarray:
    """Returns how often each record has each class, int64 ``[records, classes]``."""
    counts = np.zeros((len(labels), classes), np.int64)
    if are_boxes(labels):
        rows, columns = np.nonzero(labels[..., _KIND] == OBJECT)
        which = labels[rows, columns, _CLASS].astype(np.int64)
        np.add.at(counts, (rows, which), 1)
    else:
        known = np.flatnonzero(labels >= 0)
        counts[known, labels[known]] = 1
    return counts


def totals(labels: np.ndarray, classes: int) -> np.ndarray:
    """Returns how often each class is there in all records, int64 ``[classes]``."""
    if are_boxes(labels):
        return class_counts(labels, classes).sum(0)
    return np.bincount(labels[labels >= 0], minlength=classes)


def most_classes(labels: np.ndarray) -> int:
    """Returns one more than the largest class index that labels have."""
    found = labels[..., _CLASS] if are_boxes(labels) else labels
    return int(found.max(initial=-1)) + 1


def records_with(labels: np.ndarray, classes: int) -> np.ndarray:
    """Returns how many records have each class, int64 ``[classes]``."""
    if are_boxes(labels):
        return (class_counts(labels, classes) > 0).sum(0)
    return totals(labels, classes)


def present(labels: np.ndarray) -> list[tuple[int, ...]]:
    """Returns the classes that each record has, in order and without repeats."""
    if not are_boxes(labels):
        return [(label,) for label in labels.tolist()]
    return [
        tuple(np.unique(one[one[:, _KIND] == OBJECT, _CLASS]).astype(int).tolist())
        for one in labels
    ]


def contents(labels: np.ndarray, classes: int) -> list[tuple[int, ...]]:
    """Returns what two copies of an image have in common if their labels agree.

    It is the class, or the number of boxes of each class: no two people draw a box in
    the same place.
    """
    if not are_boxes(labels):
        return [(label,) for label in labels.tolist()]
    return list(map(tuple, class_counts(labels, classes).tolist()))


def told(labels: np.ndarray, index: int, classes: Sequence[str]) -> str:
    """Describes a record's label: its class, or as in "3 red, 1 white"."""
    if not are_boxes(labels):
        return classes[labels[index]]
    counts = class_counts(labels[index : index + 1], len(classes))[0].tolist()
    each = [
        f"{count} {printable(name)}"
        for count, name in zip(counts, classes, strict=True)
        if count
    ]
    return ", ".join(each) or "no objects"


def sides(labels: np.ndarray) -> np.ndarray:
    """Returns the square root of each box's area, float32 ``[records, N]``."""
    left, top, right, bottom = np.moveaxis(labels[..., :_CLASS], -1, 0)
    return np.sqrt(np.maximum((right - left) * (bottom - top), 0))


def object_sides(labels: np.ndarray) -> np.ndarray:
    """Returns the `sides` of all objects, float32 ``[objects]``."""
    return sides(labels)[labels[..., _KIND] == OBJECT]


def bytes_of(labels: np.ndarray) -> bytes:
    """Returns the bytes of labels for a fingerprint."""
    kind = "<f4" if are_boxes(labels) else "<i8"
    return np.ascontiguousarray(labels.astype(kind)).tobytes()
