"""Input noise in TensorFlow's graph: the same pixels as the device backend.

This module draws no random numbers; they come from ``augment/host_draws.py``. The
arithmetic equals that of ``augment/color.py`` bit for bit.

A few images are noised at a time: each operation gets those that drew it. There is no
control flow, whose untaken branches TensorFlow's executor would visit for each image,
handing work to other threads. Ops that are slow on CPU for this layout are avoided:
selections (bit masks instead), and broadcasting or reducing along an axis of three
channels (rows of ``width·channels`` values instead).

Every operation takes uint8 ``[images, height, width, channels]``, of which all but the
first are static, and returns the same shape.
"""

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


def augment(images: tf.Tensor, draws: dict[str, tf.Tensor], noise: InputNoise) -> Any:
    """Applies a stream's input noise to some images, in the order of ``noise.py``.

    Args:
      images: uint8 ``[images, height, width, channels]``, of 1 or 3 channels.
      draws: entries of ``host_draws.draw`` for images of this height and width.
      noise: the noise to apply. `crop_area` is ignored: that crop is already applied.

    Returns:
      uint8 ``[images, height, width, channels]``.

    Raises:
      UserError: the images are not uint8, or smaller than the crop's padding allows.
    """
    if images.dtype != tf.uint8:
        raise UserError(
            f"Input noise works on uint8 images, values 0–255, not on"
            f" {images.dtype.name}: augment before normalizing."
        )
    _, height, width, _ = images.shape
    noise.check(height=height, width=width)
    if noise.flip:
        left = [lambda own, _: own, lambda own, _: tf.reverse(own, [2])]
        images = _dealt(images, tf.cast(draws["flip"], tf.int32), left, {})
    for layer in range(noise.randaugment_layers):
        op, drawn = (
            draws["randaugment_op"][:, layer],
            {
                name: draws[f"randaugment_{name}"][:, layer]
                for name in ("negative", "row", "column")
            },
        )
        images = _dealt(images, op, _table(noise), drawn)
    if noise.cutout_size:
        row, column = tf.unstack(draws["cutout"], 2, axis=1)
        images = cutout(images, noise.cutout_size, row=row, column=column)
    if noise.crop_padding:
        images = _reflect_crop(images, noise.crop_padding, draws["crop"])
    return images


def _dealt(
    images: tf.Tensor,
    number: tf.Tensor,
    functions: list[Callable[[tf.Tensor, dict[str, tf.Tensor]], tf.Tensor]],
    drawn: dict[str, tf.Tensor],
) -> tf.Tensor:
    """Applies to each image the function of its number."""
    count = len(functions)
    rows = tf.dynamic_partition(tf.range(tf.shape(images)[0]), number, count)
    parts = tf.dynamic_partition(images, number, count)
    done = [
        function(part, {name: tf.gather(own, own_rows) for name, own in drawn.items()})
        for function, part, own_rows in zip(functions, parts, rows, strict=True)
    ]
    return tf.ensure_shape(tf.dynamic_stitch(rows, done), images.shape)


def _table(
    noise: InputNoise,
) -> list[Callable[[tf.Tensor, dict[str, tf.Tensor]], tf.Tensor]]:
    """Returns the table's rows as functions of images and their draws."""

    def of_row(op: table.Op) -> Callable[[tf.Tensor, dict[str, tf.Tensor]], tf.Tensor]:
        argument = table.argument(
            op,
            noise.randaugment_magnitude,
            constants=noise.constants,
            behavior=noise.randaugment_behavior,
        )
        behavior = noise.randaugment_behavior
        return lambda images, drawn: apply(
            op, images, argument, behavior=behavior, **drawn
        )

    return [of_row(op) for op in table.OPS]


def apply(
    op: table.Op,
    images: tf.Tensor,
    argument: table.Argument,
    *,
    negative: tf.Tensor,
    row: tf.Tensor,
    column: tf.Tensor,
    behavior: str = "reference",
) -> tf.Tensor:
    """Applies one row of the table.

    Args:
      op: the row.
      images: uint8 ``[images, height, width, channels]``.
      argument: the result of `randaugment_table.argument`.
      negative: bool ``[images]``, whether a signed argument is negated.
      row: int32 ``[images]``, of Cutout's center.
      column: likewise.
      behavior: one of the table's `BEHAVIORS`.

    Returns:
      uint8 ``[images, height, width, channels]``.
    """
    if op.name == "Cutout":
        assert isinstance(argument, int), "half a side, in pixels"
        return cutout(images, 2 * argument, row=row, column=column)
    if op.name in affine.COEFFICIENTS:
        assert argument is not None, "degrees, slope or pixels"
        return _transform(op.name, images, argument, negative)
    function = COLORS[op.function(behavior)]
    return function(images) if argument is None else function(images, argument)


def autocontrast(images: tf.Tensor) -> tf.Tensor:
    """Stretches each channel to 0–255; a flat channel is unchanged."""
    _, _, width, channels = images.shape
    values = _rows(images, tf.float32)

    def per_channel(reduce: Callable[..., tf.Tensor]) -> tf.Tensor:
        return reduce(tf.reshape(reduce(values, 1), [-1, width, channels]), 1)

    def per_row(numbers: tf.Tensor) -> tf.Tensor:
        return tf.tile(numbers, [1, width])[:, None]

    low, high = per_channel(tf.reduce_min), per_channel(tf.reduce_max)
    is_flat = tf.cast(low == high, tf.float32)
    # For a flat channel the factor is 1 and the offset 0.
    scale = is_flat + (1 - is_flat) * (255.0 / tf.maximum(high - low, 1.0))
    offset = (1 - is_flat) * (low * scale)
    stretched = values * per_row(scale) - per_row(offset)
    return tf.reshape(_clipped(stretched), tf.shape(images))


def equalize(images: tf.Tensor) -> tf.Tensor:
    """Equalizes each channel's histogram, by Pillow's algorithm."""
    _, height, width, channels = images.shape
    count = tf.shape(images)[0]
    first = np.tile(256 * np.arange(channels, dtype=np.int32), width)
    image = 256 * channels * tf.range(count)[:, None, None]
    index = tf.reshape(_rows(images, tf.int32) + first + image, [-1])
    counts = tf.raw_ops.Bincount(
        arr=index, size=256 * channels * count, weights=tf.constant([], tf.int32)
    )
    counts = tf.reshape(counts, [-1, 256])
    occurs = tf.cast(counts > 0, tf.int32) * np.arange(256)
    last = tf.gather(counts, tf.argmax(occurs, axis=1), batch_dims=1)
    # The brightest occurring value does not count: it has no steps above it.
    step = (height * width - last)[:, None] // 255
    below = tf.cumsum(counts, axis=1, exclusive=True)
    levels = (below + step // 2) // tf.maximum(step, 1)
    levels = tf.where(step > 0, tf.clip_by_value(levels, 0, 255), np.arange(256))
    levels = tf.reshape(tf.cast(levels, tf.uint8), [-1])
    return tf.reshape(tf.gather(levels, index), tf.shape(images))


def invert(images: tf.Tensor) -> tf.Tensor:
    """Returns 255 minus the image."""
    return tf.bitwise.invert(images)


def posterize(images: tf.Tensor, shift: int) -> tf.Tensor:
    """Clears the lowest `shift` bits, 0–7."""
    return tf.bitwise.bitwise_and(images, np.uint8(0xFF << shift & 0xFF))


def solarize(images: tf.Tensor, threshold: int) -> tf.Tensor:
    """Inverts the values at or above `threshold`."""
    if threshold > 255:
        return images
    return tf.bitwise.bitwise_xor(images, _mask(images >= threshold))


def solarize_add(images: tf.Tensor, addition: int) -> tf.Tensor:
    """Adds to the values below 128, up to 255."""
    addition = min(addition, 255)
    added = tf.minimum(images, 255 - addition) + addition
    return _selected(images < SOLARIZE_ADD_BELOW, added, images)


def color(images: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends away from the gray image."""
    return _blend(_gray(images), images, factor)


def contrast(images: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends away from the number of pixels over 256, as the authors do."""
    _, height, width, _ = images.shape
    return _blend(float(min(height * width // 256, 255)), images, factor)


def contrast_from_mean(images: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends away from the mean of the gray image, rounded to a whole level."""
    _, height, width, channels = images.shape
    values = height * width * channels
    total = tf.reduce_sum(tf.cast(_gray(images), tf.int64), [1, 2], keepdims=True)
    mean = (2 * total + values) // (2 * values)
    return _blend(tf.cast(mean, tf.float32), images, factor)


def brightness(images: tf.Tensor, factor: float) -> tf.Tensor:
    """Multiplies the values by a factor: a blend away from black."""
    return _blend(0.0, images, factor)


def sharpness(images: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends away from the smoothed image; the border pixels are unchanged."""
    _, height, width, channels = images.shape
    if height < 3 or width < 3:
        return images
    values = _rows(images, tf.float32)
    three = values[:, :-2] + values[:, 1:-1] + values[:, 2:]
    # Horizontal neighbors are `channels` values away.
    box = three[..., : -2 * channels] + three[..., channels:-channels]
    box += three[..., 2 * channels :]
    inner = values[:, 1:-1, channels:-channels]
    # A half keeps quotients away from whole numbers, where rounding would matter.
    smooth = tf.floor((box + 4 * inner + 0.5) * (1 / 13))
    sharp = _blended(smooth, inner, factor)
    whole = _rows(images)
    middle = whole[:, 1:-1]
    middle = tf.concat([middle[..., :channels], sharp, middle[..., -channels:]], axis=2)
    whole = tf.concat([whole[:, :1], middle, whole[:, -1:]], axis=1)
    return tf.reshape(whole, tf.shape(images))


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
    images: tf.Tensor, side: int, *, row: tf.Tensor, column: tf.Tensor
) -> tf.Tensor:
    """Fills a square of each image with mid-gray, clipped at the border.

    Args:
      images: uint8 ``[images, height, width, channels]``.
      side: of the square; 0 fills nothing.
      row: int32 ``[images]``, of its center; an even side extends one pixel less after
        it than before it.
      column: likewise.

    Returns:
      uint8 ``[images, height, width, channels]``.
    """
    _, height, width, channels = images.shape

    def covered(size: int, center: tf.Tensor, repeated: int) -> tf.Tensor:
        index = np.repeat(np.arange(size, dtype=np.int32), repeated)
        start = center[:, None] - side // 2
        return (index >= start) & (index < start + side)

    rows, columns = covered(height, row, 1), covered(width, column, channels)
    square = rows[:, :, None] & columns[:, None]
    filled = _selected(square, np.uint8(FILL), _rows(images))
    return tf.reshape(filled, tf.shape(images))


def _transform(
    name: str, images: tf.Tensor, argument: float, negative: tf.Tensor
) -> tf.Tensor:
    """Samples images at the pixels from ``affine.py``, mid-gray outside."""
    _, height, width, channels = images.shape
    count = tf.shape(images)[0]
    both = [affine.sources(name, s * argument, height, width) for s in (1, -1)]
    sources = tf.constant(np.stack(both).reshape(2, -1))
    # One extra pixel of each image stands for its outside.
    outside = tf.fill([count, 1, channels], np.uint8(FILL))
    pixels = tf.concat([tf.reshape(images, [count, -1, channels]), outside], axis=1)
    where = tf.gather(sources, tf.cast(negative, tf.int32))
    where += (height * width + 1) * tf.range(count)[:, None]
    sampled = tf.gather(tf.reshape(pixels, [-1, channels]), where)
    return tf.reshape(sampled, tf.shape(images))


def _reflect_crop(images: tf.Tensor, padding: int, start: tf.Tensor) -> tf.Tensor:
    """Pads by reflection and crops to the original size; `start` is in 0–2p."""
    _, height, width, _ = images.shape
    wide = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = tf.pad(images, wide, mode="REFLECT")
    rows = start[:, :1] + np.arange(height, dtype=np.int32)
    columns = start[:, 1:] + np.arange(width, dtype=np.int32)
    part = tf.gather(padded, rows, axis=1, batch_dims=1)
    part = tf.gather(part, columns, axis=2, batch_dims=1)
    return tf.ensure_shape(part, images.shape)


def _rows(images: tf.Tensor, dtype: tf.DType = tf.uint8) -> tf.Tensor:
    """Returns ``[images, height, width·channels]``."""
    _, height, width, channels = images.shape
    return tf.cast(tf.reshape(images, [-1, height, width * channels]), dtype)


def _gray(images: tf.Tensor) -> tf.Tensor:
    """Returns the gray image in every channel, float32, as `_rows`."""
    _, height, width, channels = images.shape
    if channels == 1:
        return _rows(images, tf.float32)
    if channels != 3:
        raise UserError(
            f"RandAugment's Color needs images of 1 or 3 channels, not {channels}."
        )
    # Whole numbers below 2²⁴, exact in float32.
    weighted = tf.matmul(
        tf.reshape(tf.cast(images, tf.float32), [-1, 3]),
        np.repeat(np.array(_GRAY, np.float32)[:, None], 3, axis=1),
    )
    gray = tf.floor(tf.cast(weighted, tf.float64) * 511 / (510 * 10_000))
    return tf.cast(tf.reshape(gray, [-1, height, width * 3]), tf.float32)


def _blend(base: float | tf.Tensor, images: tf.Tensor, factor: float) -> tf.Tensor:
    """Returns base + factor·(image − base), which extrapolates above 1."""
    blended = _blended(base, _rows(images, tf.float32), factor)
    return tf.reshape(blended, tf.shape(images))


def _blended(base: float | tf.Tensor, values: tf.Tensor, factor: float) -> tf.Tensor:
    return _clipped(base + np.float32(factor) * (values - base))


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
