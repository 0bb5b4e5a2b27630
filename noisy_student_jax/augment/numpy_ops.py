"""Input noise on the host, in NumPy: the same pixels as the device backend.

This module draws no random numbers; they come from ``numpy_draws.py``. The arithmetic
equals that of ``color.py`` bit for bit, in exact integers or float32. Ten of the
sixteen operations act on single values of a channel: they are computed for the 256
possible values and looked up. Results that depend only on the argument and the image
size are cached. The other operations process a few rows at a time: their temporaries
stay in the processor's cache, and are small enough that the C library does not request
them from the system each time, which takes longer than the arithmetic.

Every function takes uint8 ``[height, width, channels]`` and returns the same shape. An
unchanged image may be returned itself; inputs are never modified.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from noisy_student_jax.augment import affine
from noisy_student_jax.augment import randaugment_table as table
from noisy_student_jax.augment.input_noise import InputNoise
from noisy_student_jax.augment.randaugment_table import FILL, SOLARIZE_ADD_BELOW
from noisy_student_jax.core.errors import UserError

_VALUES = np.arange(256)
"""All values of a uint8."""
_AT_ONCE = 24_576
"""Values per slab: as float32, below the 128 KiB from which glibc maps memory."""


def augment(
    image: np.ndarray, draws: dict[str, np.ndarray], noise: InputNoise
) -> np.ndarray:
    """Applies a stream's input noise to one image, in the order of ``noise.py``.

    Args:
        image: uint8 `[height, width, channels]`, of 1 or 3 channels.
        draws: one example's entries of ``numpy_draws.draw`` for images of this height
            and width, without the batch axis.
        noise: the noise to apply. `crop_area` is ignored: that crop is already applied.

    Returns:
        uint8 `[height, width, channels]`.

    Raises:
        UserError: the image is not uint8, or smaller than the crop's padding allows.
    """
    if image.dtype != np.uint8:
        raise UserError(
            f"Input noise works on uint8 images, values 0–255, not on {image.dtype}: "
            "augment before normalizing."
        )
    height, width, _ = image.shape
    noise.check(height=height, width=width)
    if noise.flip and draws["flip"]:
        image = _mirrored(image)
    for layer in range(noise.randaugment_layers):
        op = table.OPS[draws["randaugment_op"][layer]]
        image = apply(
            op,
            image,
            table.argument(
                op,
                noise.randaugment_magnitude,
                constants=noise.constants,
                behavior=noise.randaugment_behavior,
            ),
            negative=bool(draws["randaugment_negative"][layer]),
            row=int(draws["randaugment_row"][layer]),
            column=int(draws["randaugment_column"][layer]),
            behavior=noise.randaugment_behavior,
        )
    if noise.cutout_size:
        row, column = draws["cutout"].tolist()
        image = cutout(image, noise.cutout_size, row=row, column=column)
    if noise.crop_padding:
        image = _reflect_crop(image, noise.crop_padding, *draws["crop"].tolist())
    return image


def apply(
    op: table.Op,
    image: np.ndarray,
    argument: table.Argument,
    *,
    negative: bool,
    row: int,
    column: int,
    behavior: str = "reference",
) -> np.ndarray:
    """Applies one row of the table.

    Args:
        op: the row.
        image: uint8 `[height, width, channels]`.
        argument: the result of `randaugment_table.argument`.
        negative: whether a signed argument is negated.
        row: of Cutout's center.
        column: of Cutout's center.
        behavior: one of the table's `BEHAVIORS`.

    Returns:
        uint8 `[height, width, channels]`.
    """
    if op.name == "Cutout":
        assert isinstance(argument, int), "half a side, in pixels"
        return cutout(image, 2 * argument, row=row, column=column)
    if op.name in affine.COEFFICIENTS:
        assert argument is not None, "degrees, slope or pixels"
        return _transform(op.name, image, -argument if negative else argument)
    function = COLORS[op.function(behavior)]
    return function(image) if argument is None else function(image, argument)


def autocontrast(image: np.ndarray) -> np.ndarray:
    """Stretches each channel to 0–255; a flat channel is unchanged."""
    low, high = _per_channel(np.minimum, image), _per_channel(np.maximum, image)
    tables = np.empty((image.shape[-1], 256), np.uint8)
    for own, least, most in zip(tables, low, high, strict=True):
        # In float32, with each product rounded before the subtraction.
        scale = np.float32(255) / np.float32(max(int(most) - int(least), 1))
        stretched = _VALUES.astype(np.float32) * scale - np.float32(least) * scale
        own[:] = _to_uint8(stretched) if most > least else _VALUES
    return _look_up_each(tables, image)


def equalize(image: np.ndarray) -> np.ndarray:
    """Equalizes each channel's histogram, by Pillow's algorithm."""
    height, width, channels = image.shape
    tables = np.empty((channels, 256), np.uint8)
    # Pillow counts several times as fast as NumPy.
    counted = Image.fromarray(image if channels > 1 else image[..., 0]).histogram()
    histograms = np.array(counted).reshape(channels, 256)
    for histogram, own in zip(histograms, tables, strict=True):
        # The brightest occurring value does not count: it has no steps above it.
        step = (height * width - histogram[histogram.nonzero()[0][-1]]) // 255
        below = np.cumsum(histogram) - histogram
        levels = np.clip((below + step // 2) // max(step, 1), 0, 255)
        own[:] = levels if step else _VALUES
    return _look_up_each(tables, image)


def invert(image: np.ndarray) -> np.ndarray:
    """Returns 255 minus the image."""
    return ~image


def posterize(image: np.ndarray, shift: int) -> np.ndarray:
    """Clears the lowest `shift` bits, 0–7."""
    return image & np.uint8(0xFF << shift & 0xFF)


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    """Inverts the values at or above `threshold`."""
    return _look_up(np.where(threshold > _VALUES, _VALUES, 255 - _VALUES), image)


def solarize_add(image: np.ndarray, addition: int) -> np.ndarray:
    """Adds to the values below 128, up to 255."""
    added = np.minimum(_VALUES + addition, 255)
    return _look_up(np.where(_VALUES < SOLARIZE_ADD_BELOW, added, _VALUES), image)


def color(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends away from the gray image."""
    channels = image.shape[-1]
    result = np.empty_like(image)
    for rows in _slabs(image):
        part = image[rows]
        gray = np.repeat(_gray(part), channels, axis=1).reshape(part.shape)
        result[rows] = _blend(gray, part, factor)
    return result


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends away from the number of pixels over 256, as the authors do."""
    height, width, _ = image.shape
    return _blend_from(min(height * width // 256, 255), image, factor)


def contrast_from_mean(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends away from the mean of the gray image, rounded to a whole level."""
    height, width, _ = image.shape
    pixels = height * width
    total = sum(int(_gray(image[rows]).sum(dtype=np.int64)) for rows in _slabs(image))
    return _blend_from((2 * total + pixels) // (2 * pixels), image, factor)


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies the values by a factor: a blend away from black."""
    return _blend_from(0, image, factor)


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends away from the smoothed image; the border pixels are unchanged."""
    height, width, channels = image.shape
    if height < 3 or width < 3:
        return image
    # Flat rows: horizontal neighbors are `channels` values away.
    flat = image.reshape(height, width * channels)
    result = flat.copy()
    for rows in _slabs(image[1:-1]):
        values = flat[rows.start : rows.stop + 2].astype(np.uint16)
        three = values[:-2] + values[1:-1] + values[2:]
        box = three[:, : -2 * channels] + three[:, channels:-channels]
        box += three[:, 2 * channels :]
        inner = values[1:-1, channels:-channels]
        sharp = _blend((box + 4 * inner) // 13, inner, factor)
        result[rows.start + 1 : rows.stop + 1, channels:-channels] = sharp
    return result.reshape(image.shape)


COLORS: dict[str, Callable[..., np.ndarray]] = {
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


def cutout(image: np.ndarray, side: int, *, row: int, column: int) -> np.ndarray:
    """Fills a square with mid-gray, clipped at the border.

    Args:
        image: uint8 `[height, width, channels]`.
        side: of the square; 0 fills nothing.
        row: of its center; an even side extends one pixel less after it than before it.
        column: likewise.

    Returns:
        uint8 `[height, width, channels]`.
    """
    top, left = row - side // 2, column - side // 2
    result = image.copy()
    result[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = FILL
    return result


def _transform(name: str, image: np.ndarray, argument: float) -> np.ndarray:
    """Samples the image at the pixels from ``affine.py``, mid-gray outside."""
    height, width, channels = image.shape
    # One extra pixel stands for the outside.
    pixels = np.full((height * width + 1, channels), FILL, np.uint8)
    pixels[:-1] = image.reshape(-1, channels)
    return pixels.take(_sources(name, argument, height, width), axis=0)


@functools.lru_cache(maxsize=64)
def _sources(name: str, argument: float, height: int, width: int) -> np.ndarray:
    """Caches `affine.sources` as int64, which saves NumPy a conversion per call."""
    return affine.sources(name, argument, height, width).astype(np.intp)


def _mirrored(image: np.ndarray) -> np.ndarray:
    """Flips horizontally, one channel at a time: NumPy copies long rows fast."""
    result = np.empty_like(image)
    for channel in range(image.shape[-1]):
        result[..., channel] = image[:, ::-1, channel]
    return result


def _reflect_crop(image: np.ndarray, padding: int, top: int, left: int) -> np.ndarray:
    """Pads by reflection and crops to the original size; `top`, `left` in 0–2p."""
    height, width, _ = image.shape
    wide = ((padding, padding), (padding, padding), (0, 0))
    padded = np.pad(image, wide, mode="reflect")
    return padded[top : top + height, left : left + width]


def _per_channel(function: np.ufunc, image: np.ndarray) -> np.ndarray:
    """Reduces to `[channels]`; over rows first, which avoids a short inner axis."""
    height, width, channels = image.shape
    row = function.reduce(image.reshape(height, width * channels), axis=0)
    return function.reduce(row.reshape(width, channels), axis=0)


def _gray(image: np.ndarray) -> np.ndarray:
    """Computes ``tf.image.rgb_to_grayscale`` in integers: int32 `[height, width]`."""
    channels = image.shape[-1]
    if channels == 1:
        return image[..., 0].astype(np.int32)
    if channels != 3:
        raise UserError(
            f"RandAugment's Color needs images of 1 or 3 channels, not {channels}."
        )
    red, green, blue = (image[..., channel].astype(np.int32) for channel in range(3))
    weighted = 2989 * red + 5870 * green + 1140 * blue
    return weighted * 511 // (510 * 10_000)


def _blend_from(degenerate: int, image: np.ndarray, factor: float) -> np.ndarray:
    """Blends away from a constant, by a lookup table."""
    return _look_up(_blend(np.int32(degenerate), _VALUES, factor), image)


def _blend(degenerate: Any, image: np.ndarray, factor: float) -> np.ndarray:
    """Returns degenerate + factor·(image − degenerate), which extrapolates above 1."""
    base = degenerate.astype(np.float32)
    values = image.astype(np.float32)
    values -= base
    values *= np.float32(factor)
    # Beyond ±255 the sum is clipped anyway.
    np.clip(values, -255.0, 255.0, out=values)
    values += base
    return _to_uint8(values)


def _look_up(levels: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Maps every value through a table `[256]`; as bytes, faster than NumPy's take."""
    found = image.tobytes().translate(levels.astype(np.uint8).tobytes())
    return np.frombuffer(found, np.uint8).reshape(image.shape)


def _look_up_each(tables: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Maps each channel through its own table, `[channels, 256]`."""
    result = np.empty_like(image)
    for channel, own in enumerate(tables):
        result[..., channel] = _look_up(own, image[..., channel])
    return result


def _slabs(image: np.ndarray) -> list[slice]:
    """Divides an image into slabs of rows."""
    height, width, channels = image.shape
    rows = max(1, _AT_ONCE // max(1, width * channels))
    return [slice(n, min(n + rows, height)) for n in range(0, height, rows)]


def _to_uint8(values: np.ndarray) -> np.ndarray:
    """Clips to 0–255 and truncates."""
    return np.clip(values, 0.0, 255.0).astype(np.uint8)
