"""What ``noisy-student predict`` says, draws and writes of a detector's images.

A *row* is what is said of an image: ``width`` and ``height`` as people see it, and
``boxes``, each with ``box`` (left, top, right and bottom in pixels), ``class``,
``index`` and ``score``, the surest first.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from noisy_student_jax.core.protocols import Arrays
from noisy_student_jax.data.annotations import write
from noisy_student_jax.tasks.detection import drawing
from noisy_student_jax.tasks.detection.judged import CUT

Row = Mapping[str, Any]
FORMATS = tuple(write.FORMATS)
"""Formats of `written`, which labeling tools read."""


def rows(
    predictions: Arrays,
    sizes: Sequence[tuple[int, int]],
    names: Sequence[str],
    *,
    min_score: float | None = None,
) -> list[dict[str, Any]]:
    """Returns a row for each image.

    Args:
      predictions: `Task.predict`'s arrays, ``[images, …]``.
      sizes: width and height of each image as people see it.
      names: class names.
      min_score: boxes of lower scores are left out; None for `judged.CUT`.
    """
    lowest = CUT if min_score is None else min_score
    found = []
    for number, (width, height) in enumerate(sizes):
        scores = predictions["scores"][number].astype(np.float64)
        corners = predictions["boxes"][number].astype(np.float64)
        corners = np.clip(corners * max(width, height), 0, [width, height] * 2)
        # A box in the gray beside the image has no area in it.
        there = (corners[:, 2:] > corners[:, :2]).all(axis=1)
        own = np.flatnonzero((scores > 0) & (scores >= lowest) & there)
        corners = corners[own]
        classes = predictions["classes"][number][own].tolist()
        boxes = [
            {
                "box": [round(value, 2) for value in box],
                "class": names[label],
                "index": label,
                "score": round(score, 6),
            }
            for box, label, score in zip(
                corners.tolist(), classes, scores[own].tolist(), strict=True
            )
        ]
        found.append({"width": width, "height": height, "boxes": boxes})
    return found


def text(row: Row, names: Sequence[str]) -> str:
    """Says in a line how many boxes of which class there are, and the best score.

    Args:
      row: a row.
      names: class names.

    Example:
      >>> boxes = [{"class": "cell", "score": 0.9}, {"class": "cell", "score": 0.4}]
      >>> text({"boxes": boxes}, ["platelet", "cell"])
      '2 cell (0.90 to 0.40)'
    """
    told = []
    for name in names:
        scores = [one["score"] for one in row["boxes"] if one["class"] == name]
        if scores:
            ends = f"{max(scores):.2f}"
            ends += f" to {min(scores):.2f}" if len(scores) > 1 else ""
            told.append(f"{len(scores)} {name} ({ends})")
    return ", ".join(told) or "no boxes"


def pictured(image: np.ndarray, row: Row, names: Sequence[str]) -> np.ndarray:
    """Draws the boxes of a row on its image, of whatever size.

    Args:
      image: uint8 ``[height, width, 3]``.
      row: a row.
      names: class names.
    """
    boxes = row["boxes"]
    longer = max(row["width"], row["height"])
    layer = drawing.Layer(
        boxes=np.array([one["box"] for one in boxes]).reshape(-1, 4) / longer,
        classes=np.array([one["index"] for one in boxes], np.int64),
        color=drawing.PREDICTED,
        scores=np.array([one["score"] for one in boxes]),
    )
    return drawing.drawn(image, [layer], names)


def written(
    form: str,
    folder: pathlib.Path,
    given: Mapping[str, Row],
    names: Sequence[str],
) -> None:
    """Writes boxes for other programs.

    Args:
      form: one of `FORMATS`.
      folder: where to.
      given: rows by the path of their image, relative to the folder of the images.
      names: class names.
    """
    images = []
    for path, row in given.items():
        boxes, size = row["boxes"], (row["width"], row["height"])
        images.append(
            write.predicted(
                path,
                size,
                np.array([one["box"] for one in boxes]).reshape(-1, 4) / max(size),
                np.array([one["index"] for one in boxes], np.int64),
                np.array([one["score"] for one in boxes]),
            )
        )
    write.FORMATS[form](folder, images, names)
