"""TensorFlow's SAME padding, and convolutions with it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax


def convolve(
    images: jax.Array, kernel: jax.Array, stride: int, *, groups: int = 1
) -> jax.Array:
    """Convolves images with XLA's convolution and SAME padding.

    Args:
      images: floating point ``[batch, height, width, inputs]``.
      kernel: of the same dtype ``[k, k, inputs / groups, channels]``.
      stride: the same in both directions.
      groups: number of channel groups, convolved separately.

    Returns:
      ``[batch, ceil(height / stride), ceil(width / stride), channels]``.
    """
    return lax.conv_general_dilated(
        images,
        kernel,
        window_strides=(stride, stride),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def pad_same(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Pads ``[batch, height, width, channels]`` for a kernel ``[k, k, …]``."""
    return pad(images, same_pads(images.shape[1:3], kernel.shape[:2], stride))


def same_pads(
    sides: Sequence[int], kernel: Sequence[int], stride: int
) -> list[tuple[int, int]]:
    """Returns the SAME padding, ``[(top, bottom), (left, right)]``.

    Args:
      sides: height and width of the images.
      kernel: height and width of the kernel.
      stride: the same in both directions.
    """
    return lax.padtype_to_pads(sides, kernel, (stride, stride), "SAME")


def pad(images: jax.Array, pads: list[tuple[int, int]]) -> jax.Array:
    """Pads ``[batch, height, width, channels]`` with zeros; see `same_pads`."""
    return jnp.pad(images, ((0, 0), *pads, (0, 0)))
