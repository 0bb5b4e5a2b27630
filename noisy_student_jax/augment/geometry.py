"""RandAugment's five geometric operations: nearest neighbor, mid-gray outside.

`resample` applies any of them composed, bilinearly (``moved.py``).

The coordinate convention is described in ``affine.py``.

Arguments are Python numbers known at trace time, so sines and cosines come from NumPy
and are the same on every machine; only the sign may be traced.
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
    """Rotates about the center, counter-clockwise for positive degrees.

    Args:
        image: uint8 `[height, width, channels]`.
        degrees: the angle.
        negative: whether to rotate the other way; bool `[]`.

    Returns:
        uint8 `[height, width, channels]`.
    """
    return _transform(image, "Rotate", degrees, negative)


def shear_x(image: jax.Array, slope: float, *, negative: Negative = False) -> jax.Array:
    """Shears along x: row y is sampled `slope`·y further right.

    The origin is the top-left pixel.

    Args:
        image: uint8 `[height, width, channels]`.
        slope: columns per row.
        negative: whether to negate the slope; bool `[]`.

    Returns:
        uint8 `[height, width, channels]`.
    """
    return _transform(image, "ShearX", slope, negative)


def shear_y(image: jax.Array, slope: float, *, negative: Negative = False) -> jax.Array:
    """Shears along y: column x is sampled `slope`·x further down.

    The origin is the top-left pixel.

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
    """Translates the image left by `pixels`, which may be fractional.

    Args:
        image: uint8 `[height, width, channels]`.
        pixels: the distance.
        negative: whether to translate it right; bool `[]`.

    Returns:
        uint8 `[height, width, channels]`.
    """
    return _transform(image, "TranslateX", pixels, negative)


def translate_y(
    image: jax.Array, pixels: float, *, negative: Negative = False
) -> jax.Array:
    """Translates the image up by `pixels`, which may be fractional.

    Args:
        image: uint8 `[height, width, channels]`.
        pixels: the distance.
        negative: whether to translate it down; bool `[]`.

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
    # Outside, any pixel will do: it is filled below.
    index = jnp.where(inside, row * width + column, 0)
    pixels = image.reshape(height * width, channels)
    sampled = pixels.at[index].get(mode="promise_in_bounds")
    return jnp.where(inside[..., None], sampled, jnp.uint8(FILL))


def resample(image: jax.Array, affine: tuple[jax.Array, ...]) -> jax.Array:
    """Samples an image bilinearly at transformed coordinates, mid-gray outside.

    Weights are whole 256ths, so that sums are exact on every device. Whole coordinates
    give pixels of the image.

    Args:
        image: uint8 `[height, width, channels]`.
        affine: six coefficients, float32 `[]`, as those of ``affine.py``.

    Returns:
        uint8 `[height, width, channels]`.
    """
    height, width, channels = image.shape
    a, b, c, d, e, f = affine
    y = lax.broadcasted_iota(jnp.float32, (height, 1), 0)
    x = lax.broadcasted_iota(jnp.float32, (1, width), 1)
    row, down = _split(rounded(d * x) + rounded(e * y) + f, height)
    column, right = _split(rounded(a * x) + rounded(b * y) + c, width)
    border = ((1, 1), (1, 1), (0, 0))
    wide = jnp.pad(image, border, constant_values=FILL).reshape(-1, channels)
    index = row * (width + 2) + column

    def at(offset: int) -> jax.Array:
        return wide.at[index + offset].get(mode="promise_in_bounds").astype(jnp.int32)

    down, right = down[..., None], right[..., None]
    upper = at(0) * (256 - right) + at(1) * right
    lower = at(width + 2) * (256 - right) + at(width + 3) * right
    total = upper * (256 - down) + lower * down
    return ((total + (1 << 15)) >> 16).astype(jnp.uint8)


def _split(coordinate: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Splits coordinates in an image with a border of one pixel.

    Args:
        coordinate: float32 `[...]`, in the image without the border.
        size: of the image along this axis.

    Returns:
        int32 `[...]` each: the pixel before, 0 to `size`, and 256ths of the way to the
        next. Coordinates outside are moved onto the border.
    """
    inside = (jnp.clip(coordinate, -1.0, size) + 1.0) * 256.0
    fixed = lax.round(inside, lax.RoundingMethod.AWAY_FROM_ZERO).astype(jnp.int32)
    whole = jnp.minimum(fixed >> 8, size)
    return whole, fixed - (whole << 8)


def _nearest(coordinate: jax.Array) -> jax.Array:
    return lax.round(coordinate, lax.RoundingMethod.AWAY_FROM_ZERO).astype(jnp.int32)
