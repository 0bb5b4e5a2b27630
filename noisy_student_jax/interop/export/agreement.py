"""Compares exported models with the bundle's own predictions in float32."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noisy_student_jax import models
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.core.protocols import Task
from noisy_student_jax.core.types import PyTree
from noisy_student_jax.models.bundle import Bundle
from noisy_student_jax.training.step import normalize

TOLERANCE = 1e-4
"""Largest allowed difference, relative to the largest of the bundle's values."""
LEVELS = 2
"""Largest allowed difference from Pillow's pixels, of 255."""


def make_module(bundle: Bundle, **changes: Any) -> Any:
    """Creates a bundle's module in float32, the dtype of other programs.

    Args:
      bundle: the bundle.
      **changes: model arguments to override; those it does not accept are ignored.
    """
    changes["dtype"] = "float32"
    known = models.accepted_arguments(bundle.architecture, among=("outputs",))
    taken = {name: value for name, value in changes.items() if name in known}
    return models.create(bundle.architecture, **bundle.arguments | taken)


class Reference:
    """The bundle's predictions, which exports are compared with."""

    def __init__(self, bundle: Bundle, task: Task):
        """Compiles nothing yet.

        Args:
          bundle: the bundle.
          task: the bundle's task.
        """
        self.preprocessing = bundle.preprocessing
        self._variables = bundle.variables
        module = make_module(bundle)

        def outputs(variables, images):
            return module.apply(variables, images, train=False)

        self._outputs = jax.jit(outputs)
        self._predict = jax.jit(task.predict)

    def of_normalized(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Predicts from normalized float32 ``[batch, side, side, 3]``."""
        return self._predictions(self._computed(images))

    def of_pixels(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Predicts from cropped and resized pixels ``[batch, side, side, 3]``."""
        return self.of_normalized(self.normalized(pixels))

    def normalized(self, pixels: np.ndarray) -> np.ndarray:
        """Normalizes cropped and resized pixels ``[batch, side, side, 3]``."""
        mean, std = self.preprocessing.mean, self.preprocessing.std
        return np.asarray(normalize(jnp.asarray(pixels), mean, std))

    def check(self, what: str, got: dict[str, np.ndarray], images: np.ndarray) -> float:
        """Compares an export's outputs, and predictions from just these outputs.

        Predictions may depend on which of two nearly equal outputs is the larger, so
        both are checked one after the other.

        Args:
          what: description of the export, for the error message.
          got: the export's predictions, and outputs of its network, by name.
          images: normalized float32 ``[batch, side, side, 3]``.

        Returns:
          See `check`.

        Raises:
          UserError: see `check`.
        """
        outputs = self._computed(images)
        own = {
            name: value
            for name, value in outputs.items()
            if name in got and isinstance(value, np.ndarray)
        }
        given = outputs | {name: got[name] for name in own}
        return max(check(what, got, own), check(what, got, self._predictions(given)))

    def _computed(self, images: np.ndarray) -> dict[str, Any]:
        with jax.default_matmul_precision("highest"):
            return self._fetched(self._outputs(self._variables, images))

    def _predictions(self, outputs: dict[str, Any]) -> dict[str, np.ndarray]:
        return self._fetched(self._predict(outputs))

    @staticmethod
    def _fetched(values: PyTree) -> PyTree:
        return jax.tree.map(np.asarray, jax.device_get(values))

    def check_pixels(self, what: str, pixels: np.ndarray, images: np.ndarray) -> None:
        """Compares an export's resized images with Pillow's.

        A level of one pixel may move a logit by more than `TOLERANCE`, so pixels and
        network are checked one after the other.

        Args:
          what: description of the export, for the error message.
          pixels: the export's, on the 0–255 scale ``[batch, side, side, 3]``.
          images: the originals, uint8 ``[batch, height, width, 3]``.

        Raises:
          UserError: the difference exceeds `LEVELS`, or is NaN.
        """
        worst = np.abs(pixels - self.preprocessing.apply_all(images)).max()
        if not worst < LEVELS + 0.5:
            raise UserError(
                f"{what} was read again and its pixels differ from the bundle's by"
                f" {worst:.1f} levels of 255, more than {LEVELS}: nothing is kept;"
                " please report this with the installed versions"
            )


def random_normalized(bundle: Bundle) -> np.ndarray:
    """Returns normalized test images, float32 ``[2, side, side, 3]``."""
    side = bundle.preprocessing.resolution
    return _generator().normal(size=(2, side, side, 3)).astype(np.float32)


def random_pixels(bundle: Bundle) -> list[np.ndarray]:
    """Returns batches of test images, uint8 ``[2, height, width, 3]``.

    One is landscape and larger than the model's resolution; one is portrait and
    narrower.
    """
    side = bundle.preprocessing.resolution
    sizes = ((2 * side + 1, 3 * side + 2), (side + 1, side // 2 + 1))
    return [_generator().integers(0, 256, (2, *size, 3), np.uint8) for size in sizes]


def check(
    what: str, got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]
) -> float:
    """Compares predictions.

    Args:
      what: description of the export, for the error message.
      got: the export's predictions by name.
      wanted: the bundle's predictions by name.

    Returns:
      The largest difference, relative to the bundle's largest value of that name.

    Raises:
      UserError: the difference exceeds `TOLERANCE`, or is NaN.
    """
    worst = 0.0
    for name, values in wanted.items():
        difference = np.abs(np.asarray(got[name], np.float64) - values).max(initial=0)
        relative = float(difference / max(np.abs(values).max(initial=0), 1e-30))
        if not relative <= TOLERANCE:
            raise UserError(
                f"{what} was read again and its {name} differ from the bundle's by"
                f" {relative:.1e} of the largest, more than {TOLERANCE:g}: nothing is"
                " kept; please report this with the installed versions"
            )
        worst = max(worst, relative)
    return worst


def _generator() -> np.random.Generator:
    return np.random.default_rng(0)
