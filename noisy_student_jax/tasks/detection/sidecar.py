"""Predicted boxes in sidecars: list columns, of as many boxes as an image has.

Each image has up to `PLACES` boxes, the surest first, with their classes, scores and
reliabilities.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisy_student_jax.core.protocols import Arrays
from noisy_student_jax.data.labels import NONE, OBJECT

PLACES = 100
"""Most boxes of an image."""
LOWEST_SCORE = 0.05
"""Boxes below are not stored."""
RELIABLE = 0.7
"""Lowest reliability (intersection over union) of boxes whose place is learned."""
_KINDS = {
    "classes": np.dtype(np.int32),
    "scores": np.dtype(np.float32),
    "reliabilities": np.dtype(np.float32),
}


def bucket(predictions: Arrays) -> np.ndarray:
    """Returns the class of each image's surest box, int32 ``[images]``; 0 for none."""
    surest = predictions["classes"][:, 0]
    return np.where(score(predictions) > 0, surest, 0).astype(np.int32)


def score(predictions: Arrays) -> np.ndarray:
    """Returns the highest score of each image's boxes, float32 ``[images]``.

    It is 0 for an image without boxes that are stored, and NaN if any score is.
    """
    highest = predictions["scores"].max(axis=1)
    return np.where(highest < LOWEST_SCORE, 0, highest).astype(np.float32)


def columns(predictions: Arrays, *, top_k: int | None) -> dict[str, pa.Array]:
    """Returns the sidecar columns.

    Args:
      predictions: ``boxes`` float32 ``[images, 100, 4]``, ``scores`` and
        ``reliabilities`` float32 ``[images, 100]``, ``classes`` int32 ``[images,
        100]``; the surest first.
      top_k: number of boxes to store of an image, at most; None for all.

    Returns:
      ``boxes``, lists of lists of four float32; ``classes``, lists of int32; ``scores``
      and ``reliabilities``, lists of float32. Boxes from `LOWEST_SCORE` on.
    """
    stored = predictions["scores"] >= LOWEST_SCORE
    stored[:, PLACES if top_k is None else top_k :] = False
    ends = np.concatenate([[0], np.cumsum(stored.sum(axis=1))])
    offsets = pa.array(ends, pa.int32())
    boxes = predictions["boxes"][stored].astype(np.float32)
    four = pa.FixedSizeListArray.from_arrays(pa.array(boxes.reshape(-1)), 4)
    return {"boxes": pa.ListArray.from_arrays(offsets, four)} | {
        name: pa.ListArray.from_arrays(
            offsets, pa.array(predictions[name][stored].astype(kind))
        )
        for name, kind in _KINDS.items()
    }


def record_bytes(*, top_k: int | None) -> int:
    """Returns the bytes per record of `columns`, where all places hold a box."""
    numbers = 4 + len(_KINDS)
    return 4 * numbers * min(top_k or PLACES, PLACES)


def flat(rows: pa.RecordBatch) -> Arrays:
    """Reads the boxes of all rows, one after the other.

    Args:
      rows: the sidecar columns; rows without a prediction are null.

    Returns:
      ``rows`` int64 ``[boxes]``, the row of each box, and ``places``, its place in the
      row; ``boxes`` float32 ``[boxes, 4]``, ``classes``, ``scores`` and
      ``reliabilities`` ``[boxes]``.
    """
    lengths = pc.fill_null(pc.list_value_length(rows.column("scores")), 0)
    counts = lengths.to_numpy(zero_copy_only=False).astype(np.int64)
    row = np.repeat(np.arange(len(counts)), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    boxes = rows.column("boxes").flatten().flatten()
    return {
        "rows": row,
        "places": np.arange(len(row)) - first,
        "boxes": boxes.to_numpy(zero_copy_only=False).reshape(-1, 4),
        **{
            name: rows.column(name).flatten().to_numpy(zero_copy_only=False)
            for name in _KINDS
        },
    }


def read_predictions(rows: pa.RecordBatch) -> Arrays:
    """Reads the predictions that `columns` has stored, filled up with zeros.

    Args:
      rows: the sidecar columns.
    """
    return filled(flat(rows), rows.num_rows, ("boxes", *_KINDS))


def stored_targets(rows: pa.RecordBatch) -> Arrays:
    """Reads all stored boxes as objects, in arrays of fixed width.

    Args:
      rows: the sidecar columns.

    Returns:
      ``boxes`` float32 ``[rows, 100, 4]``, ``classes`` int32, ``kinds`` int8,
      ``scores`` float32 and ``box_weights`` bool ``[rows, 100]``; zeros where there is
      no box. `box_weights` are true where a box is reliable.
    """
    found = flat(rows)
    kinds = np.full(len(found["rows"]), OBJECT, np.int8)
    return targets_of(found, kinds, rows.num_rows)


def targets_of(found: Arrays, kinds: np.ndarray, images: int) -> Arrays:
    """Returns the arrays of `stored_targets`, of boxes of given kinds.

    Args:
      found: the result of `flat`.
      kinds: int8 ``[boxes]``.
      images: number of rows.
    """
    placed = (kinds == OBJECT) & (found["reliabilities"] >= RELIABLE)
    all_of_them = {**found, "kinds": kinds, "box_weights": placed}
    kept = {name: array[kinds != NONE] for name, array in all_of_them.items()}
    return filled(kept, images, ("boxes", "classes", "kinds", "scores", "box_weights"))


def filled(found: Arrays, images: int, names: tuple[str, ...]) -> Arrays:
    """Returns boxes at their places, ``[images, 100, …]``, filled up with zeros.

    Args:
      found: arrays ``[boxes, …]``, with ``rows`` and ``places``.
      images: number of rows.
      names: the arrays to return.
    """
    arrays = {}
    for name in names:
        values = found[name]
        arrays[name] = np.zeros((images, PLACES, *values.shape[1:]), values.dtype)
        arrays[name][found["rows"], found["places"]] = values
    return arrays
