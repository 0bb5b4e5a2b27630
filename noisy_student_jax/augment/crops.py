"""The boxes of ImageNet's random resized crop.

A port of the kernel behind ``tf.image.sample_distorted_bounding_box``, called as in the
authors' ``preprocessing.py``, with the whole image as the object to cover. It draws the
aspect ratio uniformly, then the height uniformly between those of the smallest and the
largest area (small areas are therefore more frequent), then the position; up to ten
times, until a crop fits.

Two peculiarities of the kernel are reproduced. It also requires a tenth of the object
to be covered, so with a least area of 0.08, crops below a tenth are redrawn. And it
never places a crop at the last possible row or column.
"""

import numpy as np

from noisy_student_jax.augment import threefry
from noisy_student_jax.augment.host_draws import example_keys
from noisy_student_jax.augment.input_noise import RESIZED_CROP

_TRIES = 10
_NARROWEST, _WIDEST = 3 / 4, 4 / 3
_LEAST_COVERED = 0.1


def crop_boxes(
    seed: int,
    generation: int,
    stream: int,
    positions: np.ndarray,
    sizes: np.ndarray,
    least_area: float,
) -> np.ndarray:
    """Draws the box of each original image that is cropped and resized.

    Args:
        seed: the run's seed.
        generation: 0 for the first teacher.
        stream: `LABELED` or `PSEUDO` of ``core/types.py``.
        positions: int64 `[batch]`, positions in the stream's order.
        sizes: integers `[batch, 2]`, the height and width of each image.
        least_area: `InputNoise.crop_area`.

    Returns:
        int32 `[batch, 4]`: top, left, height and width in pixels. **All four are 0**
        where evaluation's center crop applies: nothing fitted, as in a very long image,
        or the crop was the whole image, or `least_area` is 0.
    """
    sizes = np.asarray(sizes, np.int64)
    if not least_area:
        return np.zeros((len(sizes), 4), np.int32)
    keys = example_keys(seed, generation, stream, positions)
    words = threefry.bits(threefry.fold_in(keys, RESIZED_CROP), 4 * _TRIES)
    words = words.reshape(len(sizes), _TRIES, 4)
    tries, fits = _tries(words, sizes[:, None], least_area)
    first = fits.argmax(axis=1)[:, None]
    box = np.take_along_axis(tries, first[..., None], axis=1)[:, 0]
    whole = (box[:, 2:] == sizes).all(axis=1)
    use = np.take_along_axis(fits, first, axis=1) & ~whole[:, None]
    return np.where(use, box, 0).astype(np.int32)


def _tries(
    words: np.ndarray, sizes: np.ndarray, least_area: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one crop from every four words.

    Args:
        words: uint32 `[batch, tries, 4]`.
        sizes: int64 `[batch, 1, 2]`.
        least_area: as a fraction of the image's area.

    Returns:
        int64 `[batch, tries, 4]`, the box of each try, and bool `[batch, tries]`,
        whether it fits.
    """
    full_height, full_width = sizes[..., 0], sizes[..., 1]
    full_area = full_height * full_width
    aspect = _NARROWEST + (_WIDEST - _NARROWEST) * (words[..., 0] / 2.0**32)

    # The tallest crop of this aspect, limited by the image's area, width and height.
    highest = _whole(np.sqrt(full_area / aspect))
    by_width = np.floor((full_width + 0.5 - 1e-7) / aspect).astype(np.int64)
    too_wide = _whole(highest * aspect) > full_width
    highest = np.minimum(np.where(too_wide, by_width, highest), full_height)
    lowest = np.minimum(_whole(np.sqrt(least_area * full_area / aspect)), highest)
    height = lowest + _below(words[..., 1], highest - lowest + 1)
    # Rounding may have made the shortest crop one row too small.
    height += height * _whole(height * aspect) < least_area * full_area
    width = _whole(height * aspect)

    area = height * width
    fits = (height > 0) & (width > 0)
    fits &= (height <= full_height) & (width <= full_width)
    fits &= area >= max(least_area, _LEAST_COVERED) * full_area
    top = _below(words[..., 2], np.maximum(full_height - height, 1))
    left = _below(words[..., 3], np.maximum(full_width - width, 1))
    return np.stack([top, left, height, width], axis=-1), fits


def _whole(values: np.ndarray) -> np.ndarray:
    """Rounds to the nearest integer, halves to the even one; float64 → int64."""
    return np.rint(values).astype(np.int64)


def _below(words: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Scales uint32 words to integers from 0 to one less than `counts`."""
    return (words.astype(np.uint64) * counts.astype(np.uint64) >> 32).astype(np.int64)
