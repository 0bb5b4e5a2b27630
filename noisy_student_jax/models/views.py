"""Views of an image, over which a model averages its features where it predicts.

Test-time augmentation of fixed views: the image, its middle enlarged, and both
mirrored. They are linear maps of the preprocessed image, so that they are part of the
network, in training a head as in prediction and in every export. A model of `views`
takes so many from the first on.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from noisy_student_jax.core.types import PyTree

NAMES = ("whole", "zoomed", "mirrored", "zoomed and mirrored")
MOST = len(NAMES)
ZOOM = 0.8
"""Share of height and width that a zoomed view shows."""


def view(images: jax.Array, number: int) -> jax.Array:
    """Returns a view of images.

    Args:
      images: floating point ``[batch, height, width, channels]``.
      number: index in `NAMES`.
    """
    if number % 2:
        rows, columns = (
            jnp.asarray(enlarging(side), images.dtype) for side in images.shape[1:3]
        )
        seen = jnp.einsum("yh,bhwc->bywc", rows, images)
        images = jnp.einsum("xw,bhwc->bhxc", columns, seen)
    return images[:, :, ::-1] if number >= 2 else images


@dataclasses.dataclass(frozen=True)
class Seen:
    """A module that sees one view of its images.

    Attributes:
      module: the module.
      number: see `view`.
    """

    module: nn.Module
    number: int

    @property
    def outside(self) -> tuple[str, ...]:
        """See `Concatenated`."""
        return getattr(self.module, "outside", ())

    def apply(self, variables: PyTree, images: jax.Array, **given: Any) -> PyTree:
        """Applies the module, as `flax.linen.Module.apply`."""
        return self.module.apply(variables, view(images, self.number), **given)


def numbers(module: nn.Module | Seen) -> range:
    """Returns the views of its images that a module sees where it predicts."""
    if isinstance(module, Seen):
        return range(module.number, module.number + 1)
    return range(getattr(getattr(module, "arguments", None), "views", 1))


def names(module: nn.Module) -> tuple[str, ...]:
    """Returns the names of a module's views; a detector has its own."""
    return getattr(module, "view_names", NAMES)


def stacked(images: jax.Array, count: int) -> jax.Array:
    """Returns the first views of images, one after the other.

    Args:
      images: floating point ``[batch, height, width, channels]``.
      count: number of views.

    Returns:
      ``[count * batch, height, width, channels]``.
    """
    if count == 1:
        return images
    return jnp.concatenate([view(images, number) for number in range(count)])


def averaged(pooled: jax.Array, count: int) -> jax.Array:
    """Returns the mean over `stacked` views.

    Args:
      pooled: ``[count * batch, channels]``.
      count: number of views.

    Returns:
      ``[batch, channels]``.
    """
    if count == 1:
        return pooled
    return pooled.reshape(count, -1, *pooled.shape[1:]).mean(axis=0)


@functools.cache
def enlarging(side: int) -> np.ndarray:
    """Returns the map of a column of pixels to its enlarged middle.

    Bicubic interpolation (Keys, a = -0.5), as Pillow's.

    Returns:
      float64 ``[side, side]``, each row summing to one.
    """
    at = side * (1 - ZOOM) / 2 + (np.arange(side) + 0.5) * ZOOM - 0.5
    distance = np.abs(at[:, None] - np.arange(side))
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    return weights / weights.sum(axis=1, keepdims=True)
