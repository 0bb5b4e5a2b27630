"""Ridge regression of classes on features, its penalty chosen by leave-one-out.

Targets are 1 for a record's class and −1 for the others. Features are standardized by
the records that are learned from, and an intercept is not penalized. One
eigendecomposition, of the smaller Gram matrix, serves every penalty: the error of a
record that is left out is its residual over one minus its leverage (Allen's PRESS).
"""

import dataclasses

import numpy as np

PENALTIES = tuple(4.0**power for power in range(-3, 11))
"""Penalties that are tried, on the scale of sums over records of squared, standardized
features."""
CONSTANT = 1e-6
"""Standard deviation over mean up to which a channel of float32 is constant."""


@dataclasses.dataclass(frozen=True)
class Ridge:
    """A fitted classifier of features.

    Attributes:
      weights: float64 ``[channels, classes]``, of features as they are.
      bias: float64 ``[classes]``.
      penalty: the chosen penalty.
      errors: by penalty, the mean squared error of targets of records left out; empty
        where nothing can be left out.
    """

    weights: np.ndarray
    bias: np.ndarray
    penalty: float
    errors: dict[float, float]

    def classes(self, features: np.ndarray) -> np.ndarray:
        """Returns the class of each record, int64 ``[records]``.

        Args:
          features: ``[records, channels]``.
        """
        return (features @ self.weights + self.bias).argmax(axis=1)


def fit(features: np.ndarray, labels: np.ndarray, *, classes: int) -> Ridge:
    """Fits features to classes.

    Where no class has two records, a record's class is unknown without it, so nothing
    can be left out: the largest penalty is taken, with which records are compared to
    the mean of each class.

    Args:
      features: ``[records, channels]``.
      labels: int ``[records]``, indices of classes.
      classes: number of classes.
    """
    features = features.astype(np.float64)
    mean, spread = features.mean(axis=0), features.std(axis=0)
    # What varies by rounding alone is constant: it says nothing, and stays about zero.
    spread[spread <= CONSTANT * np.abs(mean)] = 1.0
    rows = (features - mean) / spread
    targets = 2.0 * (labels[:, None] == np.arange(classes)) - 1.0
    center = targets.mean(axis=0)
    targets -= center
    records, channels = rows.shape
    is_tall = channels < records
    values, vectors = np.linalg.eigh(rows.T @ rows if is_tall else rows @ rows.T)
    values = np.maximum(values, 0.0)
    # The records along the eigenvectors, by which both forms give the same fit.
    along = rows @ vectors if is_tall else vectors * np.sqrt(values)
    inner = along.T @ targets
    errors: dict[float, float] = {}
    if np.bincount(labels).max() > 1:
        for penalty in PENALTIES:
            residuals = targets - along @ (inner / (values + penalty)[:, None])
            leverage = 1 / records + (along**2) @ (1 / (values + penalty))
            errors[penalty] = float(((residuals / (1 - leverage)[:, None]) ** 2).mean())
    penalty = min(errors, key=lambda one: errors[one]) if errors else PENALTIES[-1]
    if is_tall:
        weights = vectors @ (inner / (values + penalty)[:, None])
    else:
        solved = (vectors.T @ targets) / (values + penalty)[:, None]
        weights = rows.T @ (vectors @ solved)
    weights /= spread[:, None]
    return Ridge(weights, center - mean @ weights, penalty, errors)
