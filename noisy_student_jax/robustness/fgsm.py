"""The fast gradient sign method: one step that increases the loss of the true label.

Goodfellow et al. 2015, as the Noisy Student paper uses it (v2, appendix): one
signed-gradient step of size ε on pixels of 0–255.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.evaluation.predictor import Predictor

EPSILONS = (2.0, 4.0, 8.0, 16.0)

GradientSign = Callable[[PyTree, np.ndarray, np.ndarray], np.ndarray]


def gradient_sign(predictor: Predictor) -> GradientSign:
    """Returns a function that computes the sign of the loss gradient at each pixel.

    The model is in evaluation mode, so that an image's gradient is independent of the
    other images in its batch. The gradient includes the normalization of pixels.

    Args:
      predictor: predictor of a classifier.

    Returns:
      A function of the variables on the devices, images uint8
      ``[images, side, side, 3]`` and true labels int ``[images]``, which returns int8
      −1, 0 or 1 in the shape of the images. It takes at most `predictor.batch` images.

    Raises:
      UserError: the model has a backbone from outside.
    """
    if predictor.outside:
        raise UserError(
            f"of '{predictor.outside[0]}' there is a program for onnxruntime alone, and"
            " no gradient: evaluate a student of the package's own models"
        )

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
    """Moves pixels by ε along the sign, clipped to 0–255.

    Args:
      images: uint8 ``[images, side, side, 3]``.
      sign: result of `gradient_sign`.
      epsilon: step size ε on the 0–255 scale.

    Returns:
      float32 ``[images, side, side, 3]``, not rounded.
    """
    moved = images.astype(np.float32) + np.float32(epsilon) * sign
    return np.clip(moved, 0, 255)
