"""RandAugment's ten operations on pixel values.

The arithmetic is that of the authors' ``randaugment.py``: float32, truncated to uint8.
Pillow occasionally differs by one, since it rounds the degenerate images of Sharpness
and Color and stretches AutoContrast in float64.

Two float32 sums are exact integers here: the smoothing of Sharpness, on which
TensorFlow's own kernels disagree, and the gray value. TensorFlow is one below the exact
smoothed value for one pixel in several hundred (for one flat gray in five), and one
above the gray value for one color in a hundred thousand; there, Sharpness and Color may
differ by up to 4 at magnitude 27.
"""

import jax
import jax.numpy as jnp
from jax import lax

from noisy_student_jax.augment.randaugment_table import SOLARIZE_ADD_BELOW
from noisy_student_jax.augment.rounding import rounded
from noisy_student_jax.core.errors import UserError


def autocontrast(image: jax.Array) -> jax.Array:
    """Stretches each channel to 0–255; a flat channel is unchanged.

    Args:
        image: uint8 `[height, width, channels]`.

    Returns:
        uint8 `[height, width, channels]`.
    """
    low = image.min(axis=(0, 1), keepdims=True)
    high = image.max(axis=(0, 1), keepdims=True)
    scale = _stretch(high - low)
    largest = 255.0 * 255.0
    offset = rounded(low.astype(jnp.float32) * scale, 0.0, largest)
    stretched = rounded(image.astype(jnp.float32) * scale, 0.0, largest) - offset
    return jnp.where(high > low, _to_uint8(stretched), image)


def _stretch(span: jax.Array) -> jax.Array:
    """Returns 255/span, uint8 `[...]` → float32 `[...]`, correctly rounded.

    Computed in integers, since float division is not correctly rounded on every
    device. (A table would work too, but a branch that holds an array fails under `vmap`
    inside `shard_map`, JAX 0.10.)
    """
    span = jnp.maximum(span, 1).astype(jnp.uint32)
    exponent = 31 - lax.clz(lax.div(jnp.full_like(span, 255), span))
    # 24 bits and a rounding bit; the quotient never lies halfway.
    doubled = lax.div(jnp.left_shift(jnp.uint32(255), 24 - exponent), span)
    mantissa = ((doubled + 1) >> 1).astype(jnp.float32)
    return (
        mantissa
        * jnp.left_shift(jnp.uint32(1), exponent).astype(jnp.float32)
        * 2.0**-23
    )


def equalize(image: jax.Array) -> jax.Array:
    """Equalizes each channel's histogram, by Pillow's algorithm.

    Args:
        image: uint8 `[height, width, channels]`.

    Returns:
        uint8 `[height, width, channels]`.
    """
    return _look_up(_equalizing(histogram(image)), image)


def _look_up(table: jax.Array, image: jax.Array) -> jax.Array:
    """Maps each value through its channel's lookup table.

    Args:
        table: uint8 `[256, channels]`.
        image: uint8 `[height, width, channels]`.

    Returns:
        uint8 `[height, width, channels]`.
    """
    # Without the barrier, XLA recomputes the table's entry for each pixel.
    table = lax.optimization_barrier(table)
    where = image.astype(jnp.int32), jnp.arange(image.shape[-1])
    return table.at[where].get(mode="promise_in_bounds")


def _equalizing(counts: jax.Array) -> jax.Array:
    """Returns the lookup table of `equalize`.

    Args:
        counts: int32 `[256, channels]`, the image's `histogram`.

    Returns:
        uint8 `[256, channels]`.
    """
    level = lax.broadcasted_iota(jnp.int32, counts.shape, 0)
    # The brightest occurring value does not count: it has no steps above it.
    brightest = jnp.where(counts > 0, level, 0).max(axis=0, keepdims=True)
    last = jnp.where(level == brightest, counts, 0).sum(axis=0, keepdims=True)
    step = (counts.sum(axis=0, keepdims=True) - last) // 255
    divisor = jnp.maximum(step, 1)
    below = jnp.cumsum(counts, axis=0) - counts
    table = jnp.clip((below + step // 2) // divisor, 0, 255)
    return jnp.where(step == 0, level, table).astype(jnp.uint8)


@jax.custom_batching.custom_vmap
def histogram(image: jax.Array) -> jax.Array:
    """Counts the occurrences of each value, int32 `[256, channels]`.

    Args:
        image: uint8 `[height, width, channels]`.
    """
    return _histograms(image[None])[0]


@histogram.def_vmap
def _histogram_of_many(
    size: int, batched: list[bool], images: jax.Array
) -> tuple[jax.Array, bool]:
    # One flat index per pixel; the default `vmap` rule uses two-word indices.
    return _histograms(images), True


def _histograms(images: jax.Array) -> jax.Array:
    count, _, _, channels = images.shape
    first = lax.broadcasted_iota(jnp.int32, (count, 1, 1, 1), 0) * 256
    channel = lax.broadcasted_iota(jnp.int32, (1, 1, 1, channels), 3)
    places = (first + images.astype(jnp.int32)) * channels + channel
    counts = jnp.zeros(count * 256 * channels, jnp.int32)
    counts = counts.at[places.ravel()].add(1, mode="promise_in_bounds")
    return counts.reshape(count, 256, channels)


def invert(image: jax.Array) -> jax.Array:
    """Returns 255 minus the image.

    Args:
        image: uint8 `[height, width, channels]`.

    Returns:
        uint8 `[height, width, channels]`.
    """
    return 255 - image


def posterize(image: jax.Array, shift: int | jax.Array) -> jax.Array:
    """Clears the lowest `shift` bits.

    Args:
        image: uint8 `[height, width, channels]`.
        shift: 0–7.

    Returns:
        uint8 `[height, width, channels]`.
    """
    shift = jnp.asarray(shift, jnp.uint8)
    return lax.shift_left(lax.shift_right_logical(image, shift), shift)


def solarize(image: jax.Array, threshold: int | jax.Array) -> jax.Array:
    """Inverts the values at or above `threshold`.

    Args:
        image: uint8 `[height, width, channels]`.
        threshold: 0, which inverts all, to 256, which inverts none.

    Returns:
        uint8 `[height, width, channels]`.
    """
    return jnp.where(image.astype(jnp.int32) < threshold, image, 255 - image)


def solarize_add(image: jax.Array, addition: int | jax.Array) -> jax.Array:
    """Adds to the values below 128, up to 255.

    Args:
        image: uint8 `[height, width, channels]`.
        addition: the amount added.

    Returns:
        uint8 `[height, width, channels]`.
    """
    added = jnp.clip(image.astype(jnp.int32) + addition, 0, 255).astype(jnp.uint8)
    return jnp.where(image < SOLARIZE_ADD_BELOW, added, image)


def color(image: jax.Array, factor: float | jax.Array) -> jax.Array:
    """Blends away from the gray image.

    Args:
        image: uint8 `[height, width, channels]`, of one or three channels.
        factor: 0 gives the gray image, 1 the image itself.

    Returns:
        uint8 `[height, width, channels]`.

    Raises:
        UserError: the image has neither one channel nor three.
    """
    return _blend(_gray(image), image, factor)


def contrast(image: jax.Array, factor: float | jax.Array) -> jax.Array:
    """Blends away from a constant gray level that is not the image's mean.

    The authors sum the histogram and divide by its 256 bins, which gives the number of
    pixels over 256, clipped to 255: 4 at 32 × 32, 255 from 256 × 256 up.

    Args:
        image: uint8 `[height, width, channels]`.
        factor: 0 gives the gray level, 1 the image itself.

    Returns:
        uint8 `[height, width, channels]`.
    """
    height, width, _ = image.shape
    level = min(height * width // 256, 255)
    return _blend(jnp.full_like(image, level), image, factor)


def contrast_from_mean(image: jax.Array, factor: float | jax.Array) -> jax.Array:
    """Blends away from the mean of the gray image, rounded to a whole level.

    This is what the authors' code intends and what Pillow does, up to occasional
    differences of one in the gray values.

    Args:
        image: uint8 `[height, width, channels]`, of one or three channels.
        factor: 0 gives the mean, 1 the image itself.

    Returns:
        uint8 `[height, width, channels]`.

    Raises:
        UserError: the image has neither one channel nor three.
    """
    height, width, _ = image.shape
    pixels = jnp.uint32(height * width)
    # Below 2³² up to 16 million pixels.
    total = _gray(image).astype(jnp.uint32).sum(dtype=jnp.uint32)
    whole = lax.div(total, pixels)
    half_up = 2 * (total - whole * pixels) >= pixels
    level = whole + half_up.astype(jnp.uint32)
    return _blend(jnp.full_like(image, level.astype(jnp.uint8)), image, factor)


def brightness(image: jax.Array, factor: float | jax.Array) -> jax.Array:
    """Multiplies the values by a factor: a blend away from black.

    Args:
        image: uint8 `[height, width, channels]`.
        factor: 0 gives black, 1 the image itself.

    Returns:
        uint8 `[height, width, channels]`.
    """
    return _blend(jnp.zeros_like(image), image, factor)


def sharpness(image: jax.Array, factor: float | jax.Array) -> jax.Array:
    """Blends away from the smoothed image; the border pixels are unchanged.

    The smoothing weighs a pixel 5 and each of its eight neighbors 1, over 13.

    Args:
        image: uint8 `[height, width, channels]`.
        factor: 0 gives the smoothed image, 1 the image itself.

    Returns:
        uint8 `[height, width, channels]`.
    """
    height, width, _ = image.shape
    if height < 3 or width < 3:
        return image
    values = image.astype(jnp.uint32)
    rows = values[:-2] + values[1:-1] + values[2:]
    box = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    total = box + 4 * values[1:-1, 1:-1]
    inner = image[1:-1, 1:-1]
    smooth = lax.div(total, jnp.uint32(13)).astype(jnp.uint8)
    return image.at[1:-1, 1:-1].set(_blend(smooth, inner, factor))


def _gray(image: jax.Array) -> jax.Array:
    """Computes ``tf.image.rgb_to_grayscale``, uint8 `[height, width, 1]`.

    The weights are 0.2989, 0.5870 and 0.1140. The sum is rescaled by 255.5/255 before
    truncation, which rounds most values.
    """
    channels = image.shape[-1]
    if channels == 1:
        return image
    if channels != 3:
        raise UserError(
            f"RandAugment's Color needs images of 1 or 3 channels, not {channels}."
        )
    red, green, blue = jnp.moveaxis(image.astype(jnp.uint32), -1, 0)
    weighted = 2989 * red + 5870 * green + 1140 * blue
    gray = lax.div(weighted * 511, jnp.uint32(510 * 10_000))
    return gray.astype(jnp.uint8)[..., None]


def _blend(
    degenerate: jax.Array, image: jax.Array, factor: float | jax.Array
) -> jax.Array:
    """Returns degenerate + factor·(image − degenerate), which extrapolates above 1."""
    base = degenerate.astype(jnp.float32)
    difference = image.astype(jnp.float32) - base
    # Beyond ±255 the sum is clipped anyway.
    scaled = rounded(jnp.float32(factor) * difference, -255.0, 255.0)
    return _to_uint8(base + scaled)


def _to_uint8(values: jax.Array) -> jax.Array:
    """Clips to 0–255 and truncates."""
    return jnp.clip(values, 0.0, 255.0).astype(jnp.uint8)
