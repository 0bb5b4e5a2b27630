"""RandAugment's five geometric operations: nearest neighbor, mid-gray outside.

Which pixel comes from where is told in ``affine.py``.

An argument is a plain number, known when the program is traced, so that sines and
cosines are NumPy's and the same on every machine; only its sign may be a traced value.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from noisy_student_jax.augment.affine import COEFFICIENTS
from noisy_student_jax.augment.randaugment_table import FILL
from noisy_student_jax.augment.rounding import rounded

Negative = bool | jax.Array


def rotate(
    image: jax.Array, degrees: float, *, negative: Negative = False
) -> jax.Array:
    """Rotates about the center, counter-clockwise as seen for positive degrees.

    Args:
        image: uint8 `[height, width, channels]`.
        degrees: the angle.
        negative: whether to rotate the other way; bool `[]`.

    Returns:
        uint8 `[height, width, channels]`.
    """
    return _transform(image, "Rotate", degrees, negative)


def shear_x(image: jax.Array, slope: float, *, negative: Negative = False) -> jax.Array:
    """Takes row y from `slope`·y further right; the origin is the top-left pixel.

    Args:
        image: uint8 `[height, width, channels]`.
        slope: columns per row.
        negative: whether to negate the slope; bool `[]`.

    Returns:
        uint8 `[height, width, channels]`.
    """
    return _transform(image, "ShearX", slope, negative)


def shear_y(image: jax.Array, slope: float, *, negative: Negative = False) -> jax.Array:
    """Takes column x from `slope`·x further down; the origin is the top-left pixel.

    Args:
        image: uint8 `[height, width, channels]`.
        slope: rows per column.
        negative: whether to negate the slope; bool `[]`.

    Returns:
        uint8 `[height, width, channels]`.
    """
    return _transform(image, "ShearY", slope, negative)


def translate_x(
    image: jax.Array, pixels: float, *, negative: Negative = False
) -> jax.Array:
    """Moves the image left by `pixels`, which may be a fraction.

    Args:
        image: uint8 `[height, width, channels]`.
        pixels: how far.
        negative: whether to move it right; bool `[]`.

    Returns:
        uint8 `[height, width, channels]`.
    """
    return _transform(image, "TranslateX", pixels, negative)


def translate_y(
    image: jax.Array, pixels: float, *, negative: Negative = False
) -> jax.Array:
    """Moves the image up by `pixels`, which may be a fraction.

    Args:
        image: uint8 `[height, width, channels]`.
        pixels: how far.
        negative: whether to move it down; bool `[]`.

    Returns:
        uint8 `[height, width, channels]`.
    """
    return _transform(image, "TranslateY", pixels, negative)


def _transform(
    image: jax.Array, name: str, argument: float, negative: Negative
) -> jax.Array:
    """Samples the image at the transformed coordinates."""
    height, width, channels = image.shape
    coefficients = COEFFICIENTS[name]
    a, b, c, d, e, f = (
        plus if plus == minus else jnp.where(negative, minus, plus)
        for plus, minus in zip(
            np.array(coefficients(argument, height, width), np.float32),
            np.array(coefficients(-argument, height, width), np.float32),
            strict=True,
        )
    )
    y = lax.broadcasted_iota(jnp.float32, (height, 1), 0)
    x = lax.broadcasted_iota(jnp.float32, (1, width), 1)
    row = _nearest(rounded(d * x) + rounded(e * y) + f)
    column = _nearest(rounded(a * x) + rounded(b * y) + c)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    # Outside, any pixel will do: it is painted over.
    index = jnp.where(inside, row * width + column, 0)
    pixels = image.reshape(height * width, channels)
    sampled = pixels.at[index].get(mode="promise_in_bounds")
    return jnp.where(inside[..., None], sampled, jnp.uint8(FILL))


def _nearest(coordinate: jax.Array) -> jax.Array:
    return lax.round(coordinate, lax.RoundingMethod.AWAY_FROM_ZERO).astype(jnp.int32)
