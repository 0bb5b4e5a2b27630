"""The fast gradient sign method: one step against the true label.

Goodfellow et al. 2015, as the Noisy Student paper uses it (v2, appendix): one
signed-gradient step of size ε on pixels of 0–255.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from noisy_student_jax.core.types import PyTree
from noisy_student_jax.evaluation.predictor import Predictor

EPSILONS = (2.0, 4.0, 8.0, 16.0)

GradientSign = Callable[[PyTree, np.ndarray, np.ndarray], np.ndarray]


def gradient_sign(predictor: Predictor) -> GradientSign:
    """Makes a function that tells which way each pixel hurts most.

    The model is in evaluation mode, so that an image's gradient knows nothing of the
    images beside it, and the gradient goes through the normalization of pixels.

    Args:
      predictor: of a classifier.

    Returns:
      A function of the placed weights, uint8 ``[images, side, side, 3]`` and int
      ``[images]`` true labels, which returns int8 −1, 0 or 1 in the shape of the
      images. It takes at most `predictor.batch` images.
    """

    def cross_entropy(pixels, variables, labels):
        logits = predictor.apply(variables, pixels)["logits"]
        own = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
        return -own.sum()

    @jax.jit
    def sign(variables, pixels, labels):
        gradient = jax.grad(cross_entropy)(pixels, variables, labels)
        return jnp.sign(gradient).astype(jnp.int8)

    def of_some(variables, images, labels):
        missing = predictor.batch - len(images)
        if missing < 0:
            raise ValueError(f"more than {predictor.batch} images: {len(images)}")
        pixels = np.pad(images.astype(np.float32), [(0, missing)] + [(0, 0)] * 3)
        padded = np.pad(np.asarray(labels, np.int32), (0, missing))
        return jax.device_get(sign(variables, pixels, padded))[: len(images)]

    return of_some


def step(images: np.ndarray, sign: np.ndarray, epsilon: float) -> np.ndarray:
    """Moves pixels by ε along the sign, and keeps them within 0–255.

    Args:
      images: uint8 ``[images, side, side, 3]``.
      sign: of `gradient_sign`.
      epsilon: on the scale of 0–255.

    Returns:
      float32 of the same shape; not rounded.
    """
    moved = images.astype(np.float32) + np.float32(epsilon) * sign
    return np.clip(moved, 0, 255)
