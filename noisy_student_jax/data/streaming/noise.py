"""Input noise in TensorFlow's graph: the same pixels as the device backend.

This module draws no random numbers; they come from ``augment/host_draws.py``. The
arithmetic equals that of ``augment/color.py`` bit for bit. It avoids ops that are slow
on CPU for this layout: selections (bit masks instead), and broadcasting or reducing
along an axis of three channels (rows of ``width·channels`` values instead).

Every operation takes uint8 ``[height, width, channels]`` of a static shape and returns
the same shape.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from noisy_student_jax.augment import affine
from noisy_student_jax.augment import randaugment_table as table
from noisy_student_jax.augment.input_noise import InputNoise
from noisy_student_jax.augment.randaugment_table import FILL, SOLARIZE_ADD_BELOW
from noisy_student_jax.core.errors import UserError
from noisy_student_jax.data.streaming import tf

_GRAY = (2989.0, 5870.0, 1140.0)
"""Weights of ``tf.image.rgb_to_grayscale``, times 10,000."""


def augment(image: tf.Tensor, draws: dict[str, tf.Tensor], noise: InputNoise) -> Any:
    """Applies a stream's input noise to one image, in the order of ``noise.py``.

    Args:
      image: uint8 ``[height, width, channels]``, of 1 or 3 channels.
      draws: one example's entries of ``host_draws.draw`` for images of this height and
        width, without the batch axis.
      noise: the noise to apply. `crop_area` is ignored: that crop is already applied.

    Returns:
      uint8 ``[height, width, channels]``.

    Raises:
      UserError: the image is not uint8, or smaller than the crop's padding allows.
    """
    if image.dtype != tf.uint8:
        raise UserError(
            f"Input noise works on uint8 images, values 0–255, not on"
            f" {image.dtype.name}: augment before normalizing."
        )
    height, width, _ = image.shape
    noise.check(height=height, width=width)
    if noise.flip:
        image = tf.cond(draws["flip"], lambda: tf.reverse(image, [1]), lambda: image)
    for layer in range(noise.randaugment_layers):
        drawn = {
            name: draws[f"randaugment_{name}"][layer]
            for name in ("op", "negative", "row", "column")
        }
        image = _randaugment(image, noise, **drawn)
    if noise.cutout_size:
        row, column = tf.unstack(draws["cutout"], 2)
        image = cutout(image, noise.cutout_size, row=row, column=column)
    if noise.crop_padding:
        image = _reflect_crop(image, noise.crop_padding, draws["crop"])
    return image


def _randaugment(
    image: tf.Tensor, noise: InputNoise, op: tf.Tensor, **drawn: tf.Tensor
) -> tf.Tensor:
    branches = [
        functools.partial(
            apply,
            row_of_table,
            image,
            table.argument(
                row_of_table,
                noise.randaugment_magnitude,
                constants=noise.constants,
                behavior=noise.randaugment_behavior,
            ),
            behavior=noise.randaugment_behavior,
            **drawn,
        )
        for row_of_table in table.OPS
    ]
    return tf.ensure_shape(tf.switch_case(op, branches), image.shape)


def apply(
    op: table.Op,
    image: tf.Tensor,
    argument: table.Argument,
    *,
    negative: bool | tf.Tensor,
    row: int | tf.Tensor,
    column: int | tf.Tensor,
    behavior: str = "reference",
) -> tf.Tensor:
    """Applies one row of the table.

    Args:
      op: the row.
      image: uint8 ``[height, width, channels]``.
      argument: the result of `randaugment_table.argument`.
      negative: whether a signed argument is negated.
      row: of Cutout's center.
      column: of Cutout's center.
      behavior: one of the table's `BEHAVIORS`.

    Returns:
      uint8 ``[height, width, channels]``.
    """
    if op.name == "Cutout":
        assert isinstance(argument, int), "half a side, in pixels"
        return cutout(image, 2 * argument, row=row, column=column)
    if op.name in affine.COEFFICIENTS:
        assert argument is not None, "degrees, slope or pixels"
        return _transform(op.name, image, argument, negative)
    function = COLORS[op.function(behavior)]
    return function(image) if argument is None else function(image, argument)


def autocontrast(image: tf.Tensor) -> tf.Tensor:
    """Stretches each channel to 0–255; a flat channel is unchanged."""
    _, width, channels = image.shape
    values = _rows(image, tf.float32)

    def per_channel(reduce: Callable[..., tf.Tensor]) -> tf.Tensor:
        return reduce(tf.reshape(reduce(values, 0), [width, channels]), 0)

    low, high = per_channel(tf.reduce_min), per_channel(tf.reduce_max)
    is_flat = tf.cast(low == high, tf.float32)
    # For a flat channel the factor is 1 and the offset 0.
    scale = is_flat + (1 - is_flat) * (255.0 / tf.maximum(high - low, 1.0))
    offset = (1 - is_flat) * (low * scale)
    stretched = values * tf.tile(scale, [width]) - tf.tile(offset, [width])
    return _to_image(stretched, image)


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Equalizes each channel's histogram, by Pillow's algorithm."""
    height, width, channels = image.shape
    first = np.tile(256 * np.arange(channels, dtype=np.int32), width)
    index = tf.reshape(_rows(image, tf.int32) + first, [-1])
    counts = tf.raw_ops.Bincount(
        arr=index, size=256 * channels, weights=tf.constant([], tf.int32)
    )
    counts = tf.reshape(counts, [channels, 256])
    occurs = tf.cast(counts > 0, tf.int32) * np.arange(256)
    last = tf.gather(counts, tf.argmax(occurs, axis=1), batch_dims=1)
    # The brightest occurring value does not count: it has no steps above it.
    step = (height * width - last)[:, None] // 255
    below = tf.cumsum(counts, axis=1, exclusive=True)
    levels = (below + step // 2) // tf.maximum(step, 1)
    levels = tf.where(step > 0, tf.clip_by_value(levels, 0, 255), np.arange(256))
    levels = tf.reshape(tf.cast(levels, tf.uint8), [-1])
    return tf.reshape(tf.gather(levels, index), image.shape)


def invert(image: tf.Tensor) -> tf.Tensor:
    """Returns 255 minus the image."""
    return tf.bitwise.invert(image)


def posterize(image: tf.Tensor, shift: int) -> tf.Tensor:
    """Clears the lowest `shift` bits, 0–7."""
    return tf.bitwise.bitwise_and(image, np.uint8(0xFF << shift & 0xFF))


def solarize(image: tf.Tensor, threshold: int) -> tf.Tensor:
    """Inverts the values at or above `threshold`."""
    if threshold > 255:
        return image
    return tf.bitwise.bitwise_xor(image, _mask(image >= threshold))


def solarize_add(image: tf.Tensor, addition: int) -> tf.Tensor:
    """Adds to the values below 128, up to 255."""
    addition = min(addition, 255)
    added = tf.minimum(image, 255 - addition) + addition
    return _selected(image < SOLARIZE_ADD_BELOW, added, image)


def color(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends away from the gray image."""
    return _blend(_gray(image), image, factor)


def contrast(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends away from the number of pixels over 256, as the authors do."""
    height, width, _ = image.shape
    return _blend(float(min(height * width // 256, 255)), image, factor)


def contrast_from_mean(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends away from the mean of the gray image, rounded to a whole level."""
    height, width, channels = image.shape
    values = height * width * channels
    total = tf.reduce_sum(tf.cast(_gray(image), tf.int64))
    mean = (2 * total + values) // (2 * values)
    return _blend(tf.cast(mean, tf.float32), image, factor)


def brightness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Multiplies the values by a factor: a blend away from black."""
    return _blend(0.0, image, factor)


def sharpness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends away from the smoothed image; the border pixels are unchanged."""
    height, width, channels = image.shape
    if height < 3 or width < 3:
        return image
    values = _rows(image, tf.float32)
    three = values[:-2] + values[1:-1] + values[2:]
    # Horizontal neighbors are `channels` values away.
    box = three[:, : -2 * channels] + three[:, channels:-channels]
    box += three[:, 2 * channels :]
    inner = values[1:-1, channels:-channels]
    # A half keeps quotients away from whole numbers, where rounding would matter.
    smooth = tf.floor((box + 4 * inner + 0.5) * (1 / 13))
    sharp = _blended(smooth, inner, factor)
    whole = _rows(image)
    middle = whole[1:-1]
    middle = tf.concat([middle[:, :channels], sharp, middle[:, -channels:]], axis=1)
    whole = tf.concat([whole[:1], middle, whole[-1:]], axis=0)
    return tf.reshape(whole, image.shape)


COLORS: dict[str, Callable[..., tf.Tensor]] = {
    "AutoContrast": autocontrast,
    "Equalize": equalize,
    "Invert": invert,
    "Posterize": posterize,
    "Solarize": solarize,
    "Color": color,
    "Contrast": contrast,
    "ContrastFromMean": contrast_from_mean,
    "Brightness": brightness,
    "Sharpness": sharpness,
    "SolarizeAdd": solarize_add,
}
"""Functions of an image and the row's argument, by `Op.function`, for all rows that are
neither geometric nor Cutout."""


def cutout(
    image: tf.Tensor, side: int, *, row: int | tf.Tensor, column: int | tf.Tensor
) -> tf.Tensor:
    """Fills a square with mid-gray, clipped at the border.

    Args:
      image: uint8 ``[height, width, channels]``.
      side: of the square; 0 fills nothing.
      row: of its center; an even side extends one pixel less after it than before it.
      column: likewise.

    Returns:
      uint8 ``[height, width, channels]``.
    """
    height, width, channels = image.shape

    def covered(size: int, center: int | tf.Tensor, repeated: int) -> tf.Tensor:
        index = np.repeat(np.arange(size, dtype=np.int32), repeated)
        start = center - side // 2
        return (index >= start) & (index < start + side)

    square = covered(height, row, 1)[:, None] & covered(width, column, channels)
    fill = tf.fill(square.shape, np.uint8(FILL))
    return tf.reshape(_selected(square, fill, _rows(image)), image.shape)


def _transform(
    name: str, image: tf.Tensor, argument: float, negative: bool | tf.Tensor
) -> tf.Tensor:
    """Samples the image at the pixels from ``affine.py``, mid-gray outside."""
    height, width, channels = image.shape
    both = [affine.sources(name, s * argument, height, width) for s in (1, -1)]
    sources = tf.constant(np.stack(both).reshape(2, -1))
    # One extra pixel stands for the outside.
    outside = tf.fill([1, channels], np.uint8(FILL))
    pixels = tf.concat([tf.reshape(image, [-1, channels]), outside], axis=0)
    sampled = tf.gather(pixels, sources[tf.cast(negative, tf.int32)])
    return tf.reshape(sampled, image.shape)


def _reflect_crop(image: tf.Tensor, padding: int, start: tf.Tensor) -> tf.Tensor:
    """Pads by reflection and crops to the original size; `start` is in 0–2p."""
    wide = ((padding, padding), (padding, padding), (0, 0))
    padded = tf.pad(image, wide, mode="REFLECT")
    return tf.slice(padded, tf.concat([start, [0]], axis=0), image.shape)


def _rows(image: tf.Tensor, dtype: tf.DType = tf.uint8) -> tf.Tensor:
    """Returns ``[height, width·channels]``."""
    height, width, channels = image.shape
    return tf.cast(tf.reshape(image, [height, width * channels]), dtype)


def _gray(image: tf.Tensor) -> tf.Tensor:
    """Returns the gray image in every channel, float32 ``[height, width·channels]``."""
    channels = image.shape[-1]
    if channels == 1:
        return _rows(image, tf.float32)
    if channels != 3:
        raise UserError(
            f"RandAugment's Color needs images of 1 or 3 channels, not {channels}."
        )
    # Whole numbers below 2²⁴, exact in float32.
    weighted = tf.matmul(
        tf.reshape(tf.cast(image, tf.float32), [-1, 3]),
        np.repeat(np.array(_GRAY, np.float32)[:, None], 3, axis=1),
    )
    gray = tf.floor(tf.cast(weighted, tf.float64) * 511 / (510 * 10_000))
    height, width, _ = image.shape
    return tf.cast(tf.reshape(gray, [height, width * 3]), tf.float32)


def _blend(base: float | tf.Tensor, image: tf.Tensor, factor: float) -> tf.Tensor:
    """Returns base + factor·(image − base), which extrapolates above 1."""
    blended = _blended(base, _rows(image, tf.float32), factor)
    return tf.reshape(blended, image.shape)


def _blended(base: float | tf.Tensor, values: tf.Tensor, factor: float) -> tf.Tensor:
    return _clipped(base + np.float32(factor) * (values - base))


def _to_image(values: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    return tf.reshape(_clipped(values), image.shape)


def _clipped(values: tf.Tensor) -> tf.Tensor:
    """Clips to 0–255 and truncates."""
    return tf.cast(tf.clip_by_value(values, 0.0, 255.0), tf.uint8)


def _mask(where: tf.Tensor) -> tf.Tensor:
    """Returns 255 where a condition holds, otherwise 0."""
    return tf.cast(where, tf.uint8) * np.uint8(255)


def _selected(where: tf.Tensor, yes: tf.Tensor, no: tf.Tensor) -> tf.Tensor:
    """Computes `tf.where` for uint8 by bits, which is several times faster."""
    differ = tf.bitwise.bitwise_and(tf.bitwise.bitwise_xor(yes, no), _mask(where))
    return tf.bitwise.bitwise_xor(no, differ)
