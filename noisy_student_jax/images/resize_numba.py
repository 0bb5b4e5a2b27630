"""Pillow's bicubic resize, vectorized and compiled by Numba: the same pixels.

The arithmetic is that of Pillow's ``Resample.c``: weights in float64, rounded to 22
bits; sums of 32-bit integers; one axis after the other, with uint8 in between. Since
Pillow 13, the order of the axes depends on the image's shape, so `load` tests the
installed version. Numba compiles the code once per machine and caches it.
"""

import functools

import numba
import numpy as np
from numba import types
from PIL import Image

from noisy_student_jax.images.resize import Bicubic, Box

_BITS = 22
_HALF = np.int32(1 << (_BITS - 1))
_ROWS = 32
"""Number of rows transposed at a time."""

_PIXELS = types.Array(types.uint8, 3, "A", readonly=True)
_SPAN = types.UniTuple(types.float32, 2)
_RESULT = types.uint8[:, :, ::1]
_compiled = functools.partial(numba.njit, nogil=True, cache=True, error_model="numpy")


def load() -> Bicubic | None:
    """Returns the resize function, if its results equal the installed Pillow's.

    Returns:
      A function from uint8 ``[height, width, 3]`` to uint8 ``[side, side, 3]``; None if
      the results differ.
    """
    rng = np.random.default_rng(0)
    # Tall, wide, and almost square.
    images = [
        rng.integers(0, 256, (*shape, 3), np.uint8)
        for shape in ((60, 21), (21, 60), (40, 39), (7, 30))
    ]
    wanted = [
        np.asarray(Image.fromarray(image).resize((20, 20), Image.Resampling.BICUBIC))
        for image in images
    ]
    for tall_down_first in (True, False):
        resize = functools.partial(_resize, tall_down_first)
        found = [resize(image, 20, None) for image in images]
        if all(map(np.array_equal, found, wanted)):
            return resize
    return None


def _resize(
    tall_down_first: bool, image: np.ndarray, side: int, box: Box | None
) -> np.ndarray:
    height, width, _ = image.shape
    left, top, right, bottom = np.array(box or (0, 0, width, height), np.float32)
    # Pillow 13: if the height shrinks by more than twice as much as the width.
    down_first = height > side and height - side > 2 * (width - side)
    order = tall_down_first and down_first
    return _both(image, side, (left, right), (top, bottom), order)


@_compiled([types.float64(types.float64)])
def _cubic(x: float) -> float:
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    if x < 2:
        return (((x - 5) * x + 8) * x - 4) * -0.5
    return 0.0


@_compiled(
    [
        types.Tuple((types.int64[::1], types.int32[:, ::1]))(
            types.int64, _SPAN, types.int64
        )
    ]
)
def _taps(
    size: int, span: tuple[float, float], wanted: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns each output pixel's first tap and its weights, zero-padded."""
    scale = np.float64(span[1] - span[0]) / wanted
    shrunk = max(scale, 1.0)
    support = 2.0 * shrunk
    starts = np.zeros(wanted, np.int64)
    weights = np.zeros((wanted, int(np.ceil(support)) * 2 + 1), np.int32)
    row = np.zeros(weights.shape[1])
    for i in range(wanted):
        center = span[0] + (i + 0.5) * scale
        first = max(int(center - support + 0.5), 0)
        count = min(int(center + support + 0.5), size) - first
        total = 0.0
        for j in range(count):
            row[j] = _cubic((j + first - center + 0.5) * (1.0 / shrunk))
            total += row[j]
        for j in range(count):
            weight = row[j] / total * (1 << _BITS)
            weights[i, j] = int(weight - 0.5) if weight < 0 else int(weight + 0.5)
        starts[i] = first
    return starts, weights


@_compiled([types.uint8(types.int32)])
def _clipped(total: np.int32) -> np.uint8:
    return np.uint8(min(max(total >> _BITS, np.int32(0)), np.int32(255)))


@_compiled([types.void(_PIXELS, types.int64[::1], types.int32[:, ::1], _RESULT)])
def _across(
    image: np.ndarray, starts: np.ndarray, weights: np.ndarray, result: np.ndarray
) -> None:
    """Resizes the width of blocks of transposed rows, so that columns are vectors."""
    height, width, _ = image.shape
    wanted = result.shape[1]
    read = np.empty((width, 3, _ROWS), np.uint8)
    made = np.empty((wanted, 3, _ROWS), np.uint8)
    columns, results = read.reshape(width, 3 * _ROWS), made.reshape(wanted, 3 * _ROWS)
    sums = np.empty(3 * _ROWS, np.int32)
    for top in range(0, height, _ROWS):
        for j in range(_ROWS):
            row = image[min(top + j, height - 1)]
            for x in range(width):
                for channel in range(3):
                    read[x, channel, j] = row[x, channel]
        for x in range(wanted):
            sums[:] = _HALF
            for k in range(min(weights.shape[1], width - starts[x])):
                weight, column = weights[x, k], columns[starts[x] + k]
                for j in range(3 * _ROWS):
                    sums[j] += np.int32(column[j]) * weight
            for j in range(3 * _ROWS):
                results[x, j] = _clipped(sums[j])
        for j in range(min(_ROWS, height - top)):
            row = result[top + j]
            for x in range(wanted):
                for channel in range(3):
                    row[x, channel] = made[x, channel, j]


@_compiled([types.void(_PIXELS, types.int64[::1], types.int32[:, ::1], _RESULT)])
def _down(
    image: np.ndarray, starts: np.ndarray, weights: np.ndarray, result: np.ndarray
) -> None:
    """Resizes the height; rows are vectors already."""
    height, width, _ = image.shape
    rows = np.ascontiguousarray(image).reshape(height, 3 * width)
    results = result.reshape(result.shape[0], 3 * width)
    sums = np.empty(3 * width, np.int32)
    for y in range(result.shape[0]):
        sums[:] = _HALF
        for k in range(min(weights.shape[1], height - starts[y])):
            weight, row = weights[y, k], rows[starts[y] + k]
            for j in range(3 * width):
                sums[j] += np.int32(row[j]) * weight
        for j in range(3 * width):
            results[y, j] = _clipped(sums[j])


@_compiled([_RESULT(_PIXELS, types.int64, _SPAN, _SPAN, types.boolean)])
def _both(
    image: np.ndarray,
    side: int,
    columns: tuple[float, float],
    rows: tuple[float, float],
    down_first: bool,
) -> np.ndarray:
    height, width, _ = image.shape
    x_starts, x_weights = _taps(width, columns, side)
    y_starts, y_weights = _taps(height, rows, side)
    result = np.empty((side, side, 3), np.uint8)
    if down_first:
        between = np.empty((side, width, 3), np.uint8)
        _down(image, y_starts, y_weights, between)
        _across(between, x_starts, x_weights, result)
    else:
        between = np.empty((height, side, 3), np.uint8)
        _across(image, x_starts, x_weights, between)
        _down(between, y_starts, y_weights, result)
    return result
