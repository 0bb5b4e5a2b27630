"""Decoding only the part of an image that is to be seen.

Of a JPEG, TensorFlow decodes the rows and columns of a crop alone, and at 1/2 or 1/4
of its size where that leaves enough pixels. (At 1/8 nothing is kept of a block but its
mean, and images come out coarser.) At full size the result is exactly that of
``decoding.decode`` and a crop: both use libjpeg, and here its exact transform. At a
fraction it is another way of shrinking, with the same geometry: images with the detail
of photographs differ by a level or two on average. The resize is `Preprocessing`'s in
any case. ``bicubic_tf1`` does not smooth where it shrinks, so for it nothing is decoded
at a fraction.
"""

import numpy as np
import tensorflow as tf

from noisy_student_jax.images.decode import Header, decode
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.images.resize import BICUBIC_TF1, Bicubic

_END = b"\xff\xd9"
_FRACTIONS = (4, 2, 1)
# The colors of the outermost pixels are made with those beyond them.
_MARGIN = 1


def preprocessed(
    data: bytes,
    header: Header,
    box: tuple[int, int, int, int],
    preprocessing: Preprocessing,
    *,
    decoder: str = "auto",
    bicubic: Bicubic | None = None,
) -> np.ndarray:
    """Decodes a part of an image file and resizes it.

    Args:
      data: the file's bytes.
      header: what ``decoding.inspect`` says of them.
      box: top, left, height and width in the upright image; a height of 0 stands for
        the center crop of evaluation.
      preprocessing: the resolution, and how to resize.
      decoder: ``plain`` decodes every image whole.
      bicubic: see `Preprocessing.apply`.

    Returns:
      uint8 ``[resolution, resolution, 3]``.

    Raises:
      UndecodableImageError: the file is no image that we read.
    """
    if box[2] and decoder != "plain" and _is_whole_plain_jpeg(data, header):
        try:
            return _of_jpeg(data, header, box, preprocessing, bicubic)
        except tf.errors.InvalidArgumentError:
            pass  # it is damaged: our own decoder says how
    return preprocessing.apply_crop(decode(data), box, bicubic=bicubic)


def _is_whole_plain_jpeg(data: bytes, header: Header) -> bool:
    """Whether it is a JPEG that TensorFlow decodes as we do.

    It does not where the image is to be turned, or has four colors. A file without
    its end has been cut short: one crop may come before that and another not, and
    whether an image is used must not hang on its crop.
    """
    return header.plain and data.endswith(_END)


def _of_jpeg(
    data: bytes,
    header: Header,
    box: tuple[int, int, int, int],
    preprocessing: Preprocessing,
    bicubic: Bicubic | None,
) -> np.ndarray:
    """Decodes a box, at the smallest fraction that leaves enough pixels; resizes it."""
    top, left, height, width = box
    side = preprocessing.resolution
    # The authors' resize reads four pixels each way of an image at its full size.
    fractions = (1,) if preprocessing.interpolation == BICUBIC_TF1 else _FRACTIONS
    fraction = next((f for f in fractions if min(height, width) // f >= side), 1)
    first_row, rows = _span(top, height, header.height, fraction)
    first_column, columns = _span(left, width, header.width, fraction)
    part = _decoded_part(data, (first_row, first_column, rows, columns), fraction)
    if fraction == 1:
        place = (top - first_row, left - first_column, height, width)
        return preprocessing.apply_box(part, *place, bicubic=bicubic)
    within = (
        left / fraction - first_column,
        top / fraction - first_row,
        (left + width) / fraction - first_column,
        (top + height) / fraction - first_row,
    )
    return preprocessing.resized(part, box=within, bicubic=bicubic)


def _decoded_part(
    data: bytes, window: tuple[int, int, int, int], fraction: int
) -> np.ndarray:
    """Decodes a window: first row and column, rows and columns, of the fraction.

    As ``tf.io.decode_and_crop_jpeg`` does. Handing it tensors, and every attribute,
    takes a third of the time that it takes TensorFlow to find out for itself.
    """
    decoded = tf.raw_ops.DecodeAndCropJpeg(
        contents=tf.constant(data),
        crop_window=tf.constant(window, tf.int32),
        channels=3,
        ratio=fraction,
        fancy_upscaling=True,
        try_recover_truncated=False,
        acceptable_fraction=1.0,
        dct_method="INTEGER_ACCURATE",
    )
    return np.asarray(memoryview(decoded))  # and no copy, as `numpy()` makes


def _span(start: int, count: int, size: int, fraction: int) -> tuple[int, int]:
    """Returns the first and the number of the fraction's pixels that cover a span."""
    first = max(start - _MARGIN, 0) // fraction
    end = -(-min(start + count + _MARGIN, size) // fraction)
    return first, end - first
