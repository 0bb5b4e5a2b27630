"""Input noise in tf.data: the same pixels as the device's backend, op for op.

Nothing is random in here: the random numbers come with the example, from
``augment/host_draws.py``. So a graph is traced once and serves every draw.

The arithmetic is that of ``augment/colour.py``, exact integers where those are, and
float32 elsewhere. What depends only on an operation's argument and the image's size is
computed in NumPy while the graph is traced. Kernels round each product; only graph
rewriting might add in another order, which a clip to a range that is never left
forbids (`_rounded`).
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from noisy_student_jax import randaugment as table
from noisy_student_jax.augment import affine
from noisy_student_jax.augment.input_noise import InputNoise
from noisy_student_jax.errors import UserError
from noisy_student_jax.randaugment import FILL, SOLARIZE_ADD_BELOW

_LEVELS = 256
"""How many values a uint8 has."""


@tf.autograph.experimental.do_not_convert
def augment(
    image: tf.Tensor, draws: dict[str, tf.Tensor], noise: InputNoise
) -> tf.Tensor:
    """Adds a stream's input noise to one image, in the order of ``augment/noise.py``.

    Args:
        image: uint8 `[height, width, channels]`, its shape known when traced, of 1 or
            3 channels.
        draws: one example's part of what ``host_draws.draw`` gave for images of this
            height and width, without the batch's axis.
        noise: what to add. Its `crop_area` is not looked at: that crop has been made
            already.

    Returns:
        uint8 `[height, width, channels]`.

    Raises:
        UserError: the image is not uint8, its shape is not known, or it is smaller
            than the crop's padding allows.
    """
    if image.dtype != tf.uint8 or not image.shape.is_fully_defined():
        raise UserError(
            "Input noise works on uint8 images of one known shape, not on "
            f"{image.dtype.name} {image.shape}: resize first, and augment before "
            "normalising."
        )
    height, width, _ = image.shape
    noise.check(height=height, width=width)
    if noise.flip:
        image = tf.where(draws["flip"], image[:, ::-1], image)
    for layer in range(noise.randaugment_layers):
        image = _randaugment_layer(
            image,
            op=draws["randaugment_op"][layer],
            negative=draws["randaugment_negative"][layer],
            row=draws["randaugment_row"][layer],
            column=draws["randaugment_column"][layer],
            noise=noise,
        )
    if noise.cutout_size:
        row, column = tf.unstack(draws["cutout"], num=2)
        image = cutout(image, noise.cutout_size, row=row, column=column)
    if noise.crop_padding:
        image = _reflect_crop(image, noise.crop_padding, draws["crop"])
    return image


def _randaugment_layer(
    image: tf.Tensor,
    *,
    op: tf.Tensor,
    negative: tf.Tensor,
    row: tf.Tensor,
    column: tf.Tensor,
    noise: InputNoise,
) -> tf.Tensor:
    """Applies the drawn row of the table, and computes no other."""
    behavior = noise.randaugment_behavior

    def branch(op: table.Op) -> Callable[[], tf.Tensor]:
        magnitude = noise.randaugment_magnitude
        argument = table.argument(op, magnitude, noise.constants, behavior)
        if op.name == "Cutout":
            return lambda: cutout(image, 2 * argument, row=row, column=column)
        return lambda: apply(op, image, argument, negative, behavior)

    shape = image.shape
    image = tf.switch_case(op, [branch(op) for op in table.OPS])
    return tf.ensure_shape(image, shape)


def apply(
    op: table.Op,
    image: tf.Tensor,
    argument: table.Argument,
    negative: tf.Tensor,
    behavior: str = "reference",
) -> tf.Tensor:
    """Applies one row of the table other than Cutout.

    Args:
        op: the row.
        image: uint8 `[height, width, channels]`, its shape known.
        argument: as `randaugment.argument` gives it.
        negative: whether a signed argument is negated; bool `[]`.
        behavior: one of the table's `BEHAVIORS`.

    Returns:
        uint8 `[height, width, channels]`.
    """
    if op.name in affine.COEFFICIENTS:
        return _transform(op.name, image, argument, negative)
    function = COLOURS[op.function(behavior)]
    return function(image) if argument is None else function(image, argument)


def autocontrast(image: tf.Tensor) -> tf.Tensor:
    """Stretches each channel to 0–255; a flat channel stays as it is."""
    low, high = tf.reduce_min(image, [0, 1]), tf.reduce_max(image, [0, 1])
    spans = np.maximum(np.arange(_LEVELS), 1).astype(np.float32)
    scale = tf.gather(np.float32(255) / spans, tf.cast(high - low, tf.int32))
    largest = 255.0 * 255.0
    offset = _rounded(tf.cast(low, tf.float32) * scale, 0.0, largest)
    stretched = _rounded(tf.cast(image, tf.float32) * scale, 0.0, largest) - offset
    return tf.where(high > low, _to_uint8(stretched), image)


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Flattens each channel's histogram, by Pillow's algorithm."""
    height, width, channels = image.shape
    # Each channel counts in a part of its own of one long histogram.
    bins = tf.cast(image, tf.int32) + _LEVELS * np.arange(channels, dtype=np.int32)
    count = channels * _LEVELS
    flat = tf.reshape(bins, [-1])
    histogram = tf.math.unsorted_segment_sum(tf.ones_like(flat), flat, count)
    histogram = tf.reshape(histogram, [channels, _LEVELS])
    brightest = tf.cast(tf.reduce_max(image, [0, 1]), tf.int32)
    # The brightest value that occurs does not count: it has no steps above it.
    uncounted = tf.gather(histogram, brightest, batch_dims=1)
    step = (height * width - uncounted)[:, None] // 255
    below = tf.cumsum(histogram, axis=1, exclusive=True)
    levels = tf.clip_by_value((below + step // 2) // tf.maximum(step, 1), 0, 255)
    levels = tf.where(step == 0, np.arange(_LEVELS, dtype=np.int32)[None], levels)
    return tf.gather(tf.reshape(tf.cast(levels, tf.uint8), [-1]), bins)


def invert(image: tf.Tensor) -> tf.Tensor:
    """Returns 255 minus the image."""
    return 255 - image


def posterize(image: tf.Tensor, shift: int) -> tf.Tensor:
    """Clears the lowest `shift` bits, 0–7."""
    return tf.bitwise.bitwise_and(image, np.uint8(0xFF << shift & 0xFF))


def solarize(image: tf.Tensor, threshold: int) -> tf.Tensor:
    """Inverts the values at or above `threshold`."""
    return tf.where(tf.cast(image, tf.int32) < threshold, image, 255 - image)


def solarize_add(image: tf.Tensor, addition: int) -> tf.Tensor:
    """Adds to the values below 128, up to 255."""
    added = tf.cast(tf.minimum(tf.cast(image, tf.int32) + addition, 255), tf.uint8)
    return tf.where(image < SOLARIZE_ADD_BELOW, added, image)


def color(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends away from the grey image."""
    return _blend(_grey(image), image, factor)


def contrast(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends away from the number of pixels over 256, as the authors do."""
    height, width, _ = image.shape
    return _blend(min(height * width // 256, 255), image, factor)


def contrast_from_mean(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends away from the mean of the grey image, rounded to a whole level."""
    height, width, _ = image.shape
    pixels = height * width
    total = tf.reduce_sum(tf.cast(_grey(image), tf.int64))
    return _blend((2 * total + pixels) // (2 * pixels), image, factor)


def brightness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Multiplies the values: a blend away from black."""
    return _blend(0, image, factor)


def sharpness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends away from the smoothed image; the outermost pixels stay as they are."""
    height, width, _ = image.shape
    if height < 3 or width < 3:
        return image
    values = tf.cast(image, tf.int32)
    rows = values[:-2] + values[1:-1] + values[2:]
    box = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    smooth = (box + 4 * values[1:-1, 1:-1]) // 13
    sharp = _blend(smooth, image[1:-1, 1:-1], factor)
    inner = np.zeros((height, width, 1), bool)
    inner[1:-1, 1:-1] = True
    return tf.where(inner, tf.pad(sharp, [[1, 1], [1, 1], [0, 0]]), image)


COLOURS: dict[str, Callable[..., tf.Tensor]] = {
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
"""By what the table's rows call that are neither geometric nor Cutout: uint8
`[height, width, channels]` and the row's argument → the same shape."""


def cutout(
    image: tf.Tensor, side: int, *, row: tf.Tensor, column: tf.Tensor
) -> tf.Tensor:
    """Paints a square mid-grey, clipped at the border.

    Args:
        image: uint8 `[height, width, channels]`.
        side: of the square; 0 paints nothing.
        row: where its centre is, int32 `[]`; an even side reaches one pixel less
            beyond it than before it.
        column: likewise.

    Returns:
        uint8 `[height, width, channels]`.
    """
    height, width, _ = image.shape

    def covered(size: int, centre: tf.Tensor) -> tf.Tensor:
        start = centre - side // 2
        index = np.arange(size, dtype=np.int32)
        return (index >= start) & (index < start + side)

    square = covered(height, row)[:, None] & covered(width, column)[None, :]
    return tf.where(square[..., None], np.uint8(FILL), image)


def _transform(
    name: str, image: tf.Tensor, argument: float, negative: tf.Tensor
) -> tf.Tensor:
    """Samples the image where ``affine.py`` says, mid-grey where that is outside."""
    height, width, channels = image.shape
    both = [affine.sources(name, sign * argument, height, width) for sign in (1, -1)]
    index = tf.where(negative, both[1], both[0])
    # One pixel more: the one that lies outside.
    pixels = tf.reshape(image, [height * width, channels])
    outside = tf.fill([1, channels], tf.constant(FILL, tf.uint8))
    return tf.gather(tf.concat([pixels, outside], axis=0), index)


def _reflect_crop(image: tf.Tensor, padding: int, start: tf.Tensor) -> tf.Tensor:
    """Crops the image's own size out of its reflection, `start` within 0–2p."""
    wide = [[padding, padding], [padding, padding], [0, 0]]
    padded = tf.pad(image, wide, mode="REFLECT")
    return tf.slice(padded, tf.concat([start, [0]], axis=0), image.shape)


def _grey(image: tf.Tensor) -> tf.Tensor:
    """What ``tf.image.rgb_to_grayscale`` means, in integers: int32 `[…, …, 1]`."""
    channels = image.shape[-1]
    if channels == 1:
        return tf.cast(image, tf.int32)
    if channels != 3:
        raise UserError(
            f"RandAugment's Color needs images of 1 or 3 channels, not {channels}."
        )
    weights = np.array([2989, 5870, 1140], np.int32)
    weighted = tf.reduce_sum(tf.cast(image, tf.int32) * weights, -1, keepdims=True)
    return weighted * 511 // (510 * 10_000)


def _blend(degenerate: int | tf.Tensor, image: tf.Tensor, factor: float) -> tf.Tensor:
    """Returns degenerate + factor·(image − degenerate), which extrapolates above 1."""
    base = tf.cast(degenerate, tf.float32)
    difference = tf.cast(image, tf.float32) - base
    # Beyond ±255 the sum is clipped anyway.
    return _to_uint8(base + _rounded(np.float32(factor) * difference, -255.0, 255.0))


def _rounded(product: tf.Tensor, low: float, high: float) -> tf.Tensor:
    """Returns a product that nothing is added to before it is rounded."""
    return tf.clip_by_value(product, low, high)


def _to_uint8(values: tf.Tensor) -> tf.Tensor:
    """Clips to 0–255 and truncates."""
    return tf.cast(tf.clip_by_value(values, 0.0, 255.0), tf.uint8)
