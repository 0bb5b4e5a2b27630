"""RandAugment's five geometric operations: nearest neighbour, mid-grey outside.

**Pixel centres lie at integers.** The output pixel ``(x, y)`` takes the input pixel
nearest to ``(a·x + b·y + c, d·x + e·y + f)``, halves rounding away from zero, as in
the kernel behind ``contrib_image.transform`` that the authors call. The centre of
rotation is therefore ``((width − 1)/2, (height − 1)/2)``, and a shear leaves the first
row or column where it is. Pillow puts centres at halves and rounds down: it gives the
same pixels once its offset is moved by half a pixel to match.

An argument is a plain number, known when the program is traced, so that sines and
cosines are NumPy's and the same on every machine; only its sign may be a traced value.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from noisy_student_jax.augment.exact import rounded
from noisy_student_jax.randaugment import FILL

Negative = bool | jax.Array
_Coefficients = Callable[[float, int, int], tuple[float, ...]]


def rotate(image: jax.Array, degrees: float, negative: Negative = False) -> jax.Array:
    """Rotates about the centre, counter-clockwise as seen for positive degrees.

    Args:
        image: uint8 `[height, width, channels]`.
        degrees: the angle.
        negative: whether to rotate the other way; bool `[]`.

    Returns:
        uint8 `[height, width, channels]`.
    """
    return _transform(image, _rotation, degrees, negative)


def shear_x(image: jax.Array, slope: float, negative: Negative = False) -> jax.Array:
    """Takes row y from `slope`·y further right; the origin is the top-left pixel.

    Args:
        image: uint8 `[height, width, channels]`.
        slope: columns per row.
        negative: whether to negate the slope; bool `[]`.

    Returns:
        uint8 `[height, width, channels]`.
    """
    return _transform(
        image, lambda s, height, width: (1, s, 0, 0, 1, 0), slope, negative
    )


def shear_y(image: jax.Array, slope: float, negative: Negative = False) -> jax.Array:
    """Takes column x from `slope`·x further down; the origin is the top-left pixel.

    Args:
        image: uint8 `[height, width, channels]`.
        slope: rows per column.
        negative: whether to negate the slope; bool `[]`.

    Returns:
        uint8 `[height, width, channels]`.
    """
    return _transform(
        image, lambda s, height, width: (1, 0, 0, s, 1, 0), slope, negative
    )


def translate_x(
    image: jax.Array, pixels: float, negative: Negative = False
) -> jax.Array:
    """Moves the image left by `pixels`, which may be a fraction.

    Args:
        image: uint8 `[height, width, channels]`.
        pixels: how far.
        negative: whether to move it right; bool `[]`.

    Returns:
        uint8 `[height, width, channels]`.
    """
    return _transform(
        image, lambda p, height, width: (1, 0, p, 0, 1, 0), pixels, negative
    )


def translate_y(
    image: jax.Array, pixels: float, negative: Negative = False
) -> jax.Array:
    """Moves the image up by `pixels`, which may be a fraction.

    Args:
        image: uint8 `[height, width, channels]`.
        pixels: how far.
        negative: whether to move it down; bool `[]`.

    Returns:
        uint8 `[height, width, channels]`.
    """
    return _transform(
        image, lambda p, height, width: (1, 0, 0, 0, 1, p), pixels, negative
    )


def _rotation(degrees: float, height: int, width: int) -> tuple[float, ...]:
    """The six coefficients, rounded step by step as ``contrib_image`` computes them."""
    radians = np.float32(degrees) * np.float32(np.pi / 180.0)
    cos, sin = np.cos(radians), np.sin(radians)
    right, bottom = np.float32(width - 1), np.float32(height - 1)
    half = np.float32(2.0)
    c = (right - (cos * right - sin * bottom)) / half
    f = (bottom - (sin * right + cos * bottom)) / half
    return cos, -sin, c, sin, cos, f


def _transform(
    image: jax.Array, coefficients: _Coefficients, argument: float, negative: Negative
) -> jax.Array:
    """Samples the image at the transformed coordinates."""
    height, width, channels = image.shape
    a, b, c, d, e, f = (
        plus if plus == minus else jnp.where(negative, minus, plus)
        for plus, minus in zip(
            np.float32(coefficients(argument, height, width)),
            np.float32(coefficients(-argument, height, width)),
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
