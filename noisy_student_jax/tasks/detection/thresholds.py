"""The score of each class from which a pseudo box counts as an object.

Chen et al., "Label Matching Semi-Supervised Object Detection" (2022): objects of a
class are as frequent in unlabeled images as in labeled ones, so its threshold is the
score that leaves it that many boxes of an image.
"""

import numpy as np

BINS = 1000
EDGES = np.linspace(0, 1, BINS + 1).astype(np.float32)
"""Edges of the bins of scores; the last bin is of scores of 1."""
LOWEST, HIGHEST = np.float32(0.3), np.float32(0.9)
"""Range of the thresholds. A rate says little of a teacher that finds hardly anything,
and labels may be missing where it finds more than they have."""


def histogram(classes: np.ndarray, scores: np.ndarray, number: int) -> np.ndarray:
    """Counts boxes by class and score; the counts of shards add up.

    Args:
      classes: int32 ``[boxes]``.
      scores: float32 ``[boxes]``, 0 to 1.
      number: number of classes.

    Returns:
      int64 ``[classes, 1001]``.
    """
    counts = np.zeros((number, len(EDGES)), np.int64)
    bins = np.searchsorted(EDGES[1:], scores, side="right")
    np.add.at(counts, (classes, bins), 1)
    return counts


def at_labeled_rate(
    counts: np.ndarray, images: int, labeled: np.ndarray, labeled_images: int
) -> np.ndarray:
    """Returns the lowest thresholds that leave no more boxes of an image than labels.

    Args:
      counts: int64 ``[classes, 1001]``, the sum of `histogram`.
      images: number of images of the pool.
      labeled: int64 ``[classes]``, number of labeled objects.
      labeled_images: number of labeled images.

    Returns:
      float32 ``[classes]``, edges of bins or `LOWEST` or `HIGHEST`.
    """
    left = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
    few = left * labeled_images <= labeled[:, None] * images
    first = np.where(few.any(axis=1), few.argmax(axis=1), BINS)
    return np.clip(EDGES[first], LOWEST, HIGHEST)
