"""Features in few coordinates, in which heads are solved.

A few hundred directions hold almost all of what thousands of channels say, and a head
of theirs is a head of the channels: both are linear. Each backbone's features count on
a scale of their own, since regularization would suppress small ones beside large ones.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import threadpoolctl
from sklearn.utils.extmath import randomized_svd

from noisy_student_jax.features.logistic import Head

LEAST = 512
"""Directions that are kept, at least; with more accuracy hardly rises
(docs/own_images.md)."""
LABELED_PER_DIRECTION = 4
"""Where labels are many, a direction for so many of them."""
SAMPLE = 3000
"""Features that the directions are found from, at least."""


@dataclasses.dataclass(frozen=True)
class Reduction:
    """A linear map of features.

    Attributes:
      scales: float32 ``[channels]``, by which features are divided first.
      directions: float32 ``[channels, kept]``, orthonormal; None keeps all channels.
    """

    scales: np.ndarray
    directions: np.ndarray | None

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Maps float32 ``[rows, channels]`` to float32 ``[rows, kept]``."""
        scaled = features / self.scales
        if self.directions is None:
            return scaled
        with threadpoolctl.threadpool_limits(1):
            return scaled @ self.directions

    def whole(self, head: Head) -> Head:
        """Returns a head of reduced features as one of the features."""
        kernel = head.kernel
        if self.directions is not None:
            kernel = self.directions.astype(np.float64) @ kernel
        return Head(kernel / self.scales[:, None], head.bias)


def directions_for(labeled: int) -> int:
    """Returns the number of directions that are kept for so many labeled records."""
    return max(LEAST, labeled // LABELED_PER_DIRECTION)


def reduction(sample: np.ndarray, widths: Sequence[int], *, kept: int) -> Reduction:
    """Returns the reduction to the directions in which a sample is largest.

    Args:
      sample: features, float32 ``[rows, channels]``.
      widths: channels of each backbone, whose features lie side by side.
      kept: number of directions; none are lost where the sample has no more rows.
    """
    blocks = np.split(sample, np.cumsum(widths)[:-1], axis=1)
    found = [np.sqrt(np.square(one, dtype=np.float64).mean()) for one in blocks]
    scales = np.repeat([one or 1.0 for one in found], widths).astype(np.float32)
    rows, channels = sample.shape
    if channels <= kept:
        return Reduction(scales, None)
    scaled = sample / scales
    with threadpoolctl.threadpool_limits(1):
        if rows <= kept:
            directions = np.linalg.qr(scaled.T)[0]
        else:
            *_, right = randomized_svd(scaled, kept, n_iter=2, random_state=0)
            directions = right.T
    return Reduction(scales, np.ascontiguousarray(directions, np.float32))
