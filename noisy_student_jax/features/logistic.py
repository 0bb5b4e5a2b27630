"""Regularized multinomial logistic regression: a head as the solution of its problem.

The problem is convex, so its solution depends on the data alone, and on no learning
rate, schedule or seed. With rows x, targets t, weights w and the strength C it is

    minimize  sum w · cross_entropy(t, softmax(x W + b))  +  |W|² / (2 C)

as in scikit-learn's ``LogisticRegression``, but for targets that may be soft, in single
precision where there are many rows. Features are solved around their mean: b takes up
the difference and is not regularized, so the solution is the same, and it is reached in
half the iterations, as features have much in common.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import scipy.optimize

from noisy_student_jax.core.errors import UserError

GRADIENT = 1e-4
"""Largest entry of the gradient, per unit of weight, at which a solution counts."""
MOST_ITERATIONS = 2000
ABSENT = -30.0
"""Bias of a class without examples, in logits below the others' mean."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Examples of a logistic regression.

    Attributes:
      features: float ``[rows, channels]``.
      targets: float ``[rows, classes]``, each row summing to one.
      weights: float ``[rows]``.
    """

    features: np.ndarray
    targets: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: np.ndarray) -> "Rows":
        return Rows(self.features[rows], self.targets[rows], self.weights[rows])


@dataclasses.dataclass(frozen=True)
class Head:
    """A linear classifier.

    Attributes:
      kernel: float64 ``[channels, classes]``.
      bias: float64 ``[classes]``.
    """

    kernel: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Returns float64 ``[rows, classes]``."""
        kernel = self.kernel.astype(features.dtype)
        return (features @ kernel).astype(np.float64) + self.bias

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Returns float64 ``[rows, classes]``."""
        return softmax(self.logits(features))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the softmax over the last axis, float64."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def solve(
    rows: Rows,
    strength: float,
    *,
    start: Head | None = None,
    gradient: float = GRADIENT,
    check: Callable[[], None] = lambda: None,
) -> Head:
    """Solves a regularized multinomial logistic regression.

    A class without examples gets a bias of `ABSENT` and no weights.

    Args:
      rows: the examples.
      strength: C of the module's formula; larger is less regularized.
      start: a solution of a similar problem, to begin with; changes nothing but the
        number of iterations, up to the tolerance.
      gradient: largest entry of the gradient at which it counts as solved.
      check: called in every iteration; may raise.

    Raises:
      UserError: the solver does not converge, as where features are not finite.
    """
    present = np.flatnonzero(rows.weights @ rows.targets > 0)
    channels, classes = rows.features.shape[1], rows.targets.shape[1]
    own, targets = len(present), rows.targets[:, present]
    weights = rows.weights / rows.weights.sum()
    decay = 1 / (strength * rows.weights.sum())
    features = rows.features
    mean = (weights.astype(features.dtype) @ features).astype(np.float64)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        check()
        kernel, bias = flat[: channels * own].reshape(channels, own), flat[-own:]
        logits = (features @ kernel.astype(features.dtype)).astype(np.float64)
        logits += bias - mean @ kernel
        top = logits.max(axis=1, keepdims=True)
        exponentials = np.exp(logits - top)
        total = exponentials.sum(axis=1, keepdims=True)
        entropy = np.log(total) + top - (targets * logits).sum(axis=1, keepdims=True)
        error = weights[:, None] * (exponentials / total - targets)
        slope = (features.T @ error.astype(features.dtype)).astype(np.float64)
        slope -= np.outer(mean, error.sum(axis=0))
        value = weights @ entropy[:, 0] + decay / 2 * (kernel**2).sum()
        gradient = (slope + decay * kernel).ravel(), error.sum(axis=0)
        return value, np.concatenate(gradient)

    begin = np.zeros((channels + 1) * own)
    if start is not None:
        kernel = start.kernel[:, present]
        begin = np.append(kernel, start.bias[present] + mean @ kernel)
    found = scipy.optimize.minimize(
        objective,
        begin,
        jac=True,
        method="L-BFGS-B",
        options={
            "maxiter": MOST_ITERATIONS,
            "maxfun": 2 * MOST_ITERATIONS,
            "gtol": gradient,
            "ftol": 0.0,
        },
    )
    # The line search ends where rounding hides the descent: a little above `gradient`.
    if not abs(found.jac).max() <= 10 * gradient:
        raise UserError(
            f"the head's problem was not solved after {found.nit:,} iterations: are its"
            " features finite, and its classes and weights right?"
        )
    head = Head(np.zeros((channels, classes)), np.full(classes, ABSENT))
    kernel = found.x[: channels * own].reshape(channels, own)
    head.kernel[:, present] = kernel
    bias = found.x[-own:] - mean @ kernel
    head.bias[present] = bias - bias.mean()
    return head
