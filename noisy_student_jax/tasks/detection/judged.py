"""A detector's recorded predictions, and the scores from which its boxes count."""

import dataclasses
import pathlib

import numpy as np
import pyarrow as pa

from noisy_student_jax.core import files
from noisy_student_jax.core.protocols import Arrays
from noisy_student_jax.tasks.detection import average_precision, sidecar

CUT = 0.3
"""Score from which boxes count where nothing tells a better one."""


@dataclasses.dataclass(frozen=True)
class Judged:
    """Predictions for labeled images.

    Attributes:
      keys: key of each image.
      predictions: `Task.predict`'s arrays, ``[images, …]``; boxes of low scores are not
        recorded.
      labels: float32 ``[images, N, 6]``.
      statistics: of `average_precision.statistics`, ``[images]``.
    """

    keys: list[str]
    predictions: Arrays
    labels: np.ndarray
    statistics: pa.StructArray

    def of_image(self, index: int) -> Arrays:
        """Returns the predictions for one image, ``[boxes, …]``."""
        return {name: array[index] for name, array in self.predictions.items()}


def read(path: pathlib.Path) -> Judged:
    """Reads the file of predictions for a part of the dataset.

    Raises:
      OSError: the file is not there.
      ValueError: it lacks columns, or is damaged.
    """
    table = files.read_parquet(path).combine_chunks()
    missing = {"key", "truth", "primary", "boxes"} - set(table.column_names)
    if missing:
        raise ValueError(f"{path.name} lacks {', '.join(sorted(missing))}")
    images = table.num_rows
    truth = np.array(table["truth"].to_pylist(), np.float32).reshape(images, -1, 6)
    (rows,) = table.to_batches() or [None]
    if rows is None:
        raise ValueError(f"{path.name} has no images")
    return Judged(
        keys=table["key"].to_pylist(),
        predictions=sidecar.read_predictions(rows),
        labels=truth,
        statistics=rows.column("primary"),
    )


def cuts(statistics: pa.StructArray) -> np.ndarray:
    """Returns the score of each class from which its boxes have the highest F1.

    F1 is the harmonic mean of precision and recall at an IoU of 0.5.

    Args:
      statistics: of validation images.

    Returns:
      float32 ``[classes]``; `CUT` for a class without hits.
    """
    found = []
    for curve in average_precision.curves(statistics):
        hits = curve.precision * curve.recall
        if not curve.boxes or not hits.any():
            found.append(CUT)
            continue
        f1 = 2 * hits / np.maximum(curve.precision + curve.recall, 1e-12)
        found.append(float(curve.scores[int(f1.argmax())]))
    return np.array(found, np.float32)


def at(curve: average_precision.Curve, score: float) -> tuple[float, float]:
    """Returns precision and recall of the boxes of at least a score."""
    count = int((curve.scores >= np.float32(score)).sum())
    if not count:
        return float("nan"), 0.0 if curve.boxes else float("nan")
    return float(curve.precision[count - 1]), float(curve.recall[count - 1])
