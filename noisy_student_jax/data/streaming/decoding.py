"""Decodes only the cropped part of an image.

TensorFlow decodes just the rows and columns of a crop of a JPEG, at 1/2 or 1/4 scale
where that leaves enough pixels. (At 1/8 only the mean of each block remains, which is
visibly coarser.) At full scale the result equals ``images.decode.decode`` followed by a
crop: both use libjpeg, here with its accurate integer transform. At a smaller scale the
geometry is the same but the filter differs: photographs differ by one or two levels on
average. `Preprocessing` does the final resize in any case. ``bicubic_tf1`` does not
antialias, so its images are always decoded at full scale.
"""

import numpy as np
import tensorflow as tf

from noisy_student_jax.images.decode import Header, decode
from noisy_student_jax.images.preprocessing import Preprocessing
from noisy_student_jax.images.resize import BICUBIC_TF1, Bicubic

_END = b"\xff\xd9"
_FRACTIONS = (4, 2, 1)
# Chroma upsampling of the outermost pixels reads their neighbors.
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
    """Decodes and resizes a crop of an image file.

    Args:
      data: the file's bytes.
      header: the result of ``images.decode.inspect``.
      box: top, left, height and width in the upright image; a height of 0 stands for
        the center crop of evaluation.
      preprocessing: resolution and interpolation.
      decoder: ``plain`` decodes every image whole, with Pillow.
      bicubic: see `Preprocessing.apply`.

    Returns:
      uint8 ``[resolution, resolution, 3]``.

    Raises:
      UndecodableImageError: the file is damaged or has an unsupported format.
    """
    if box[2] and decoder != "plain" and _is_whole_plain_jpeg(data, header):
        try:
            return _of_jpeg(data, header, box, preprocessing, bicubic)
        except tf.errors.InvalidArgumentError:
            pass  # damaged: `decode` gives the reason
    return preprocessing.apply_crop(decode(data), box, bicubic=bicubic)


def _is_whole_plain_jpeg(data: bytes, header: Header) -> bool:
    """Whether TensorFlow decodes this JPEG like `decode`.

    It does not for rotated or four-channel images. A truncated file is excluded too:
    whether it is usable must not depend on the crop.
    """
    return header.plain and data.endswith(_END)


def _of_jpeg(
    data: bytes,
    header: Header,
    box: tuple[int, int, int, int],
    preprocessing: Preprocessing,
    bicubic: Bicubic | None,
) -> np.ndarray:
    """Decodes a box at the smallest sufficient scale, and resizes it."""
    top, left, height, width = box
    side = preprocessing.resolution
    # The authors' resize reads only 4 × 4 pixels, of the image at full scale.
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
    """Decodes a window (top, left, height, width) in pixels of the scaled image.

    Equivalent to ``tf.io.decode_and_crop_jpeg``. Passing tensors and all attributes to
    the raw op takes a third of the overhead.
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
    return np.asarray(memoryview(decoded))  # unlike `numpy()`, without a copy


def _span(start: int, count: int, size: int, fraction: int) -> tuple[int, int]:
    """Returns the first scaled pixel and the number of those that cover a span."""
    first = max(start - _MARGIN, 0) // fraction
    end = -(-min(start + count + _MARGIN, size) // fraction)
    return first, end - first
