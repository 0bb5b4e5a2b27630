"""How like the labeled images of some class an image is.

Of what tells images of foreign classes from those of known ones, the angle to the
nearest class mean does so best, on frozen backbones (``benchmarks/foreign.py``).
"""

import numpy as np


def likeness(
    features: np.ndarray, labeled: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """Returns the cosine to the nearest mean of a class, around the mean of features.

    Args:
      features: float32 ``[records, channels]``.
      labeled: features of labeled records, float32 ``[labeled, channels]``.
      targets: their classes, ``[labeled, classes]``.

    Returns:
      float32 ``[records]``, from -1 to 1.
    """
    center = features.mean(axis=0)
    present = targets[:, targets.sum(axis=0) > 0]
    means = (present / present.sum(axis=0)).T @ (labeled - center)
    cosines = _unit(features - center) @ _unit(means).T
    return cosines.max(axis=1).astype(np.float32)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
